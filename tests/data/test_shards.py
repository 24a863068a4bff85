"""What is read of shards, and no more; local, remote, or under other descriptors after a fork."""

import os
import tracemalloc
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.config.condition import Lstm
from t2f_dist.data.order import Place
from t2f_dist.data.shards import OpenShard, Shards
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import Manifest
from tests.data import mixed
from tests.data.items import NUM, samples_of


def bytes_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def test_an_early_stage_reads_its_small_pictures_and_captions_alone(mixed_shards: Path):
    samples = samples_of(mixed_shards, modalities={"caption": Lstm()}, mismatched=frozenset())
    for position in range(NUM):
        samples[position, 8]
    opened = list(samples.shards._open.values())
    assert len(opened) == mixed.NUM_SHARDS and all(shard.tar is None for shard in opened), "no tar is even opened"
    before = bytes_read()
    for position in range(NUM, 2 * NUM):
        samples[position, 4]
    reading = bytes_read() - before - 200  # of /proc itself
    captions = sum(
        len(shard_format.captions_copy(samples.shards._small(each), record)) for each in opened for record in each.index
    )
    assert reading < NUM * 64 + captions + 1000, "of four pixels 48 bytes and their checksums"
    assert not samples.needs_tar(32) and samples.needs_tar(64) and samples_of(mixed_shards).needs_tar(4), "for voices"


def num_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def read(shards: Shards, number: int) -> None:
    place = Place(number, 5)
    assert shards.members(place, ["meta"])["meta"] and shards.captions(place) is not None
    assert shards.level(place, 4) is not None


def test_open_shards_are_bounded_and_their_files_are_closed(mixed_shards: Path):
    before = num_files()
    shards = Shards(mixed_shards, "train", max_open=2)
    for number in (0, 1, 2, 3, 0):
        read(shards, number)
    assert list(shards._open) == [3, 0]
    for number in (3, 1):
        read(shards, number)
    assert list(shards._open) == [3, 1], "what was used longest ago goes first"
    assert num_files() == before + 4
    shards.close()
    assert num_files() == before


def test_as_many_shards_are_open_as_are_read_at_a_time_and_few_large_ones_else(
    mixed_shards: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("t2f_dist.data.shards.MAX_SAMPLES", 2 * mixed.SHARD - 1)
    opened: list[int] = []
    index = Shards._index

    def counted(self: Shards, shard) -> np.ndarray:
        opened.append(shard.index)
        return index(self, shard)

    monkeypatch.setattr(Shards, "_index", counted)
    samples = samples_of(mixed_shards, modalities={"caption": Lstm()})  # in windows of two shards
    for position in range(NUM):
        samples[position, 4]
        assert len(samples.shards._open) <= 2
    assert len(opened) == len(set(opened)) == mixed.NUM_SHARDS, "each once an epoch"
    shards = Shards(mixed_shards, "train")
    for number in (0, 1):
        read(shards, number)
    assert list(shards._open) == [1]


def test_of_many_open_shards_few_files_are_open(mixed_shards: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("t2f_dist.data.shards.MAX_FILES", 3)
    before, shards = num_files(), Shards(mixed_shards, "train")
    for number in (0, 1, 2, 3, 0, 2, 1):
        read(shards, number)
        assert num_files() - before <= 3
    assert len(shards._open) == 4
    shards.close()
    assert num_files() == before and not shards._files


def test_an_open_shard_takes_little_memory_a_sample(mixed_shards: Path):
    shard, num = Manifest.load(mixed_shards).shards("train")[0], 10_000
    tracemalloc.start()
    try:
        opened = OpenShard(shard, np.zeros(num, shard_format.INDEX_DTYPE))
        assert tracemalloc.get_traced_memory()[0] < 140 * num
    finally:
        tracemalloc.stop()
    assert opened.identities[num - 1] == opened.voiced[0] == 0


def _same_in_a_child(shards: Shards, expected: list[bytes]) -> None:
    found = [shards.members(Place(number, 3), ["meta"])["meta"] for number in range(4)]
    os._exit(0 if found == expected else 1)


def test_a_forked_process_opens_its_own(mixed_shards: Path):
    shards = Shards(mixed_shards, "train")
    expected = [shards.members(Place(number, 3), ["meta"])["meta"] for number in range(4)]
    child = get_context("fork").Process(target=_same_in_a_child, args=(shards, expected))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert [shards.members(Place(number, 3), ["meta"])["meta"] for number in range(4)] == expected
    shards.close()


def test_a_file_of_another_length_is_refused_when_it_is_opened(mixed_shards: Path, tmp_path: Path):
    folder = mixed.write(tmp_path / "shards")
    shard = Manifest.load(folder).shards("train")[0]
    reading = {
        shard.small: lambda shards: shards.captions(Place(0, 0)),
        shard.name: lambda shards: shards.members(Place(0, 0), ["meta"]),
    }
    for name, read in reading.items():
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-1])
        with pytest.raises(ValueError, match=r"bytes where the manifest says .*; copy or build it again"):
            read(Shards(folder, "train"))
        (folder / name).write_bytes(whole)


def test_identities_are_found_a_few_shards_at_a_time(mixed_shards: Path):
    whole, few = Shards(mixed_shards, "train"), Shards(mixed_shards, "train", max_open=1)
    assert np.array_equal(whole.identities(), few.identities()) and len(whole.identities()) == mixed.PEOPLE
