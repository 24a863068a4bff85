"""Shards in a cache: whose it is, what is done about damage there, and what is fetched of tars without small files."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.config.condition import Lstm
from t2f_dist.config.load import override, resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.data.order import Place
from t2f_dist.data.shards import Shards
from t2f_dist.shard.format import DamagedSample, identity_number
from t2f_dist.shard.manifest import Manifest
from t2f_dist.storage.cache import Cache
from tests.data import mixed
from tests.data.items import samples_of
from tests.data.test_loader import assert_equal, settings, stream
from tests.data.test_remote import fetched, needed_bytes, remote
from tests.shard.img2dataset import corpus
from tests.shard.test_index import indexed
from tests.web import Web, served

AT = Place(1, 2)  # which has all there is
BYTES = 10_000_000


@pytest.fixture
def web() -> Iterator[Web]:
    with served() as web:
        yield web


def elsewhere(folder: Path, web: Web, out: Path) -> Path:
    """A local folder with the indices and small files of `folder`, whose tars are served."""
    manifest = Manifest.load(folder)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.tar", "manifest.json"))
    splits = {}
    for name, split in manifest.splits.items():
        shards = []
        for shard in split.shards:
            path = Path(shard.name.removeprefix("file://"))
            content = (folder / path).read_bytes()  # `path` itself, where it is absolute
            shards.append(shard.model_copy(update={"name": web.put(f"/tars/{path.name}", content)}))
        splits[name] = split.model_copy(update={"shards": tuple(shards)})
    manifest.model_copy(update={"splits": splits}).save(out)
    return out


def two(web: Web, shards: Path, folder: Path) -> list[Shards]:
    """As two processes of a node have them."""
    place = web.put_folder(shards)
    return [Shards(place, "train", partial(Cache, folder, BYTES)) for _ in range(2)]


def flip(path: Path) -> None:
    """All bytes, in the file that others have open."""
    content = np.fromfile(path, np.uint8)
    with open(path, "r+b") as file:
        file.write((content ^ 1).tobytes())


def damage(shards: Shards, place: Place) -> None:
    """Flip a bit of a sample's facts."""
    with open(Path(shards.place) / shards.listed[place.shard].name, "r+b") as file:
        file.seek(int(shards[place.shard].index[place.row]["meta_offset"]))
        file.write(b"[")


def cached(folder: Path, name: str) -> Path:
    (path,) = folder.glob(f"*-{name}")
    return path


def test_of_a_local_index_too_the_tars_are_kept_where_and_as_far_as_is_said(
    mixed_shards: Path, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    local = settings("both", mixed_shards)
    place = elsewhere(mixed_shards, web, tmp_path / "index")
    by_default = override(remote(local, str(place), tmp_path).model_dump(mode="json"), ["data.cache_dir=null"])
    here = resolve(Config, override(by_default, [f"data.cache_bytes={BYTES}"]))
    samples = open_samples(here)
    assert isinstance(samples, IndexedSamples)
    cache = samples.shards.cache
    assert (cache.folder, cache.max_bytes) == (tmp_path / "home" / "t2f-dist" / "shards", BYTES)
    assert needed_bytes(here) == sum(shard.bytes for shard in Manifest.load(place).shards("train"))
    assert_equal(stream(local, 1, steps=4), stream(here, 1, steps=4))
    assert set(fetched(web)) == {f"train-{number:06d}.tar" for number in range(4)}


def test_local_shards_have_no_cache(mixed_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for folder in ("null", str(tmp_path / "cache")):
        stream(settings("house", mixed_shards, f"data.cache_dir={folder}"), 1, steps=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "member"), [("tar", "meta"), ("small", "captions"), ("small", "lod")])
def test_processes_that_hold_the_same_damage_read_the_same(
    mixed_shards: Path, web: Web, tmp_path: Path, suffix: str, member: str
):
    def read(shards: Shards) -> bytes:
        if member == "lod":
            level = shards.level(AT, 8)
            assert level is not None
            return level.tobytes()
        return shards.captions(AT) if member == "captions" else shards.members(AT, [member])[member]

    first, second = two(web, mixed_shards, tmp_path)
    expected = read(first)
    assert read(second) == expected
    name = f"train-{AT.shard:06d}.{suffix}"
    for times in (1, 2):
        flip(cached(tmp_path, name))
        assert read(first) == expected, "fetched anew"
        assert read(second) == expected, "no substitute, though the file at its place is sound by now"
        assert fetched(web)[name] == 1 + times


def test_a_file_that_is_cut_while_it_is_read_is_fetched_anew(mixed_shards: Path, web: Web, tmp_path: Path):
    shards, _ = two(web, mixed_shards, tmp_path)
    expected = shards.captions(AT)
    os.truncate(cached(tmp_path, f"train-{AT.shard:06d}.small"), 10)
    assert shards.captions(AT) == expected


def test_what_was_damaged_when_it_was_stored_is_damage_and_is_not_fetched_again(
    mixed_shards: Path, web: Web, tmp_path: Path
):
    folder = Path(shutil.copytree(mixed_shards, tmp_path / "shards"))
    mixed.damage(folder, AT, "lod")
    manifest = Manifest.load(folder)
    small = manifest.shards("train")[AT.shard].small
    content = (folder / small).read_bytes()
    sums = {small: mixed.digest(content)}
    split = manifest.splits["train"]
    shards = tuple(s.model_copy(update={"small_sha256": sums.get(s.small, s.small_sha256)}) for s in split.shards)
    splits = manifest.splits | {"train": split.model_copy(update={"shards": shards})}
    manifest.model_copy(update={"splits": splits}).save(folder)
    for each in two(web, folder, tmp_path / "cache"):
        for _ in range(2):
            with pytest.raises(DamagedSample, match="lod"):
                each.level(AT, 4)
    assert fetched(web)[small] == 1


def test_an_index_is_read_though_another_process_drops_its_file(
    mixed_shards: Path, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shards, other = two(web, mixed_shards, tmp_path)
    get = shards.cache.get

    def dropped(*file):
        held = get(*file)
        held.path.unlink()
        return held

    expected = other[AT.shard].index
    monkeypatch.setattr(shards.cache, "get", dropped)
    assert np.array_equal(shards[AT.shard].index, expected)


def test_a_disk_that_changes_what_is_written_does_not_keep_a_run_at_it(
    mixed_shards: Path, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def worn(suffix: str) -> Shards:
        shards, _ = two(web, mixed_shards, tmp_path / suffix)
        get = shards.cache.get

        def changed(*file):
            held = get(*file)
            if file[0].endswith(suffix):
                flip(held.path)
            return held

        monkeypatch.setattr(shards.cache, "get", changed)
        return shards

    with pytest.raises(DamagedSample, match="captions"):
        worn("small").captions(AT)
    with pytest.raises(ValueError, match="is damaged when it is read"):
        worn("npy").captions(AT)
    assert max(fetched(web).values()) == 4


class Alone(mixed.Face):
    """Each is another's face, so that every shard has names to give."""

    @property
    def person(self) -> int:
        return self.number


def test_names_of_identities_take_a_cache_of_one_shard(web: Web, tmp_path: Path):
    folder = mixed.write(tmp_path / "shards", Alone)
    listed = Manifest.load(folder).shards("train")
    most = max(shard.bytes + shard.index_bytes + shard.small_bytes for shard in listed)
    small = Shards(web.put_folder(folder), "train", lambda: Cache(tmp_path / "cache", most, wait_seconds=0))
    expected = [f"person {number}" for number in range(mixed.NUM_SHARDS * mixed.SHARD)]
    assert small.names(small.identities()) == sorted(expected, key=identity_number)


def test_an_identity_is_named_by_its_next_sample_where_the_first_is_damaged(mixed_shards: Path, tmp_path: Path):
    folder = Path(shutil.copytree(mixed_shards, tmp_path / "shards"))
    shards = Shards(folder, "train")
    expected = shards.names(shards.identities())
    damage(shards, Place(0, 0))
    assert shards.names(shards.identities()) == expected
    assert samples_of(folder).identity_names == expected
    person = mixed.faces(Place(0, 0)).person
    for number in range(mixed.NUM_SHARDS):
        for row in range(mixed.SHARD):
            if (number, row) != (0, 0) and mixed.faces(Place(number, row)).person == person:
                damage(shards, Place(number, row))
    with pytest.raises(ValueError, match=r"no sample of identity \d+: meta: its checksum does not match the index$"):
        shards.names(shards.identities())


def test_tars_without_small_pictures_are_fetched_from_the_first_stage_on(web: Web, tmp_path: Path):
    root = corpus(tmp_path / "cc3m", num_tars=2, suffixes=("png",))
    needed = {}
    for levels in (True, False):
        indexed(root, tmp_path / str(levels), levels=levels, split={"validation": 0, "test": 0})
        place = elsewhere(tmp_path / str(levels), web, tmp_path / f"{levels}-served")
        samples = samples_of(place, modalities={"caption": Lstm()})
        assert samples.remote and [samples.needs_tar(side) for side in (4, 32, 64)] == [not levels, not levels, True]
        here = remote(settings("house", place), str(place), tmp_path / f"{levels}-cache", f"data.cache_bytes={BYTES}")
        web.gets.clear()
        running = batches(open_samples(here), [(0, 8, 4)], 0, 1, 0)
        next(running)
        running.close()
        needed[levels] = set(fetched(web))
        if not levels:
            assert needed_bytes(here) == sum(shard.bytes for shard in Manifest.load(place).shards("train"))
    assert needed == {True: set(), False: {"00000.tar", "00001.tar"}}
