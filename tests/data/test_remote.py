"""Training from a web server is training from the folder that it serves."""

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from t2f_dist.config.load import override, resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.storage.cache import Cache
from t2f_dist.storage.lock import Lock
from t2f_dist.training.growth import Growth
from tests.data import mixed
from tests.data.test_loader import BATCH, assert_equal, settings, stream
from tests.web import Web, served

EPOCH = 6  # steps


@pytest.fixture
def web() -> Iterator[Web]:
    with served() as web:
        yield web


def remote(local: Config, url: str, folder: Path, *overrides: str) -> Config:
    """The same, of shards that are served at a URL."""
    data = [f"data.shards={url}", f"data.cache_dir={folder}", "log.held_out_images=0"]
    return resolve(Config, override(local.model_dump(mode="json"), [*data, *overrides]))


def fetched(web: Web) -> Counter[str]:
    """How often each file of a shard was, by its name."""
    found = Counter({path.rpartition("/")[2]: num for path, num in web.gets.items()})
    return Counter({name: num for name, num in found.items() if name.endswith((".tar", ".npy", ".small"))})


@pytest.mark.parametrize(("kind", "num_workers"), [("house", 0), ("both", 0), ("both", 2)])
def test_the_stream_is_that_of_local_shards_and_each_file_is_fetched_once(
    mixed_shards: Path, web: Web, tmp_path: Path, kind: str, num_workers: int
):
    local = settings(kind, mixed_shards)
    here = remote(local, web.put_folder(mixed_shards), tmp_path)
    whole = stream(local, 1, steps=2 * EPOCH)
    for world_size in (1, 2):
        assert_equal(whole, stream(here, world_size, num_workers, steps=2 * EPOCH))
    suffixes = ("tar", "index.npy", "small") if kind == "both" else ("index.npy", "small")
    assert fetched(web) == {f"train-{n:06d}.{suffix}": 1 for n in range(4) for suffix in suffixes}


def needed_bytes(config: Config) -> int:
    with pytest.raises(ValueError, match="data.shuffle_window_shards") as raised:
        open_samples(resolve(Config, override(config.model_dump(mode="json"), ["data.cache_bytes=1"])))
    assert "\n" not in str(raised.value)
    found = re.search(r"take up to ([0-9,]+) bytes", str(raised.value))
    assert found
    return int(found[1].replace(",", ""))


def test_a_cache_of_two_windows_is_enough_for_any_number_of_epochs(mixed_shards: Path, web: Web, tmp_path: Path):
    local = settings("both", mixed_shards, "data.shuffle_window_shards=1")
    here = remote(local, web.put_folder(mixed_shards), tmp_path)
    needed = needed_bytes(here)
    shards = open_samples(local).shards
    assert needed == sum(sorted(shard.bytes + shard.index_bytes + shard.small_bytes for shard in shards.listed)[-2:])
    with pytest.raises(ValueError, match=f"data.cache_bytes {needed - 1:,} is too small"):
        open_samples(remote(here, here.data.shards, tmp_path, f"data.cache_bytes={needed - 1}"))

    barely = remote(here, here.data.shards, tmp_path, f"data.cache_bytes={needed}")
    whole = stream(local, 1, steps=4 * EPOCH)
    assert_equal(whole, stream(barely, 1, steps=4 * EPOCH))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= needed
    num_windows = -(-len(whole) * BATCH // 12)
    visits = Counter(number for (number,) in open_samples(local).order.shards_from(0, num_windows + 1))
    tars = Counter({number: fetched(web)[shard.name] for number, shard in enumerate(shards.listed)})
    assert tars <= visits  # never twice for one window
    assert sum(tars.values()) > 6  # of four: most were evicted in between


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shard_that_stays_damaged_ends_the_run_with_one_line(
    mixed_shards: Path, web: Web, tmp_path: Path, num_workers: int
):
    local = settings("both", mixed_shards)
    here = remote(local, web.put_folder(mixed_shards), tmp_path)
    for path in web.files:
        if path.endswith("2.tar"):
            web.always[path] = "flipped"
    with pytest.raises(ValueError) as raised:
        stream(here, 1, num_workers)
    line = str(raised.value)
    assert line.startswith(f"{here.data.shards}/train-000002.tar: expected ")
    assert "\n" not in line


def test_what_is_damaged_in_the_cache_is_fetched_again(mixed_shards: Path, web: Web, tmp_path: Path):
    local = settings("both", mixed_shards)
    here = remote(local, web.put_folder(mixed_shards), tmp_path)
    whole = stream(local, 1)
    assert_equal(whole, stream(here, 1))
    for path in tmp_path.glob("*train-000002*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 3 :: 50] = bytes(len(content[len(content) // 3 :: 50]))
        path.write_bytes(content)
    assert_equal(whole, stream(here, 1))
    assert fetched(web) == {
        f"train-{number:06d}.{suffix}": 1 + (number == 2)
        for number in range(4)
        for suffix in ("tar", "index.npy", "small")
    }


def test_prefetching_ends_with_the_stream(mixed_shards: Path, web: Web, tmp_path: Path):
    here = remote(settings("both", mixed_shards), web.put_folder(mixed_shards), tmp_path)
    order = open_samples(here).order
    later = order.shards_from(0, 2)[1]
    for number in later:
        web.always[f"/shards/train-{number:06d}.tar"] = "slow"
    samples = open_samples(here)
    running = batches(samples, Growth(here.stages).steps(0), 0, 1, 0)
    next(running)
    until = time.monotonic() + 10
    while not any(web.gets[f"/shards/train-{number:06d}.tar"] for number in later):
        assert time.monotonic() < until
        time.sleep(0.01)
    assert list(tmp_path.glob("*.pins"))
    started = time.monotonic()
    running.close()
    assert time.monotonic() - started < 0.7
    assert not list(tmp_path.glob("*.p*"))  # parts and pins


def test_a_stream_that_starts_late_fetches_nothing_that_it_does_not_read(mixed_shards: Path, web: Web, tmp_path: Path):
    local = settings("both", mixed_shards, "data.shuffle_window_shards=1")
    here = remote(local, web.put_folder(mixed_shards), tmp_path)
    start = 3 * BATCH
    assert_equal(stream(local, 1, start=start, steps=2), stream(here, 1, start=start, steps=2))
    windows = open_samples(local).order.shards_from(start, 3)
    assert set(fetched(web)) <= {
        f"train-{number:06d}.{suffix}" for (number,) in windows for suffix in ("tar", "index.npy", "small")
    }


def test_tars_are_fetched_from_the_stage_on_that_reads_them(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mixed, "SIDE", 64)
    local = settings("house", mixed.write(tmp_path / "shards"))
    here = remote(local, web.put_folder(tmp_path / "shards"), tmp_path / "cache")
    steps = [(8 * number, 8, 32 if number < 3 else 64) for number in range(6)]
    running = batches(open_samples(here), steps, 0, 1, 0)
    for number, same in enumerate(batches(open_samples(local), steps, 0, 1, 0)):
        assert torch.equal(next(running).images, same.images)
        assert any(name.endswith(".tar") for name in fetched(web)) == (number >= 3)
    running.close()


def test_a_node_fetches_its_lanes_alone(mixed_shards: Path, web: Web, tmp_path: Path):
    local = settings("both", mixed_shards, "data.shuffle_window_shards=1", "data.lanes=2")
    here = remote(local, web.put_folder(mixed_shards), tmp_path / "0")
    seen = []
    for rank in range(2):
        web.gets.clear()
        node = remote(here, here.data.shards, tmp_path / str(rank))
        running = batches(open_samples(node), Growth(node.stages).steps(0), rank, 2, 0)
        assert len(list(zip(running, range(9)))) == 9
        running.close()
        seen.append({name for name in fetched(web) if name.endswith(".tar")})
    assert [len(names) for names in seen] == [2, 2]
    assert len(seen[0] | seen[1]) == 4


def test_the_window_that_is_read_comes_first_then_the_next(mixed_shards: Path, web: Web, tmp_path: Path):
    here = remote(settings("both", mixed_shards), web.put_folder(mixed_shards), tmp_path)
    first, second = ({f"train-{n:06d}" for n in window} for window in open_samples(here).order.shards_from(0, 2))
    running = batches(open_samples(here), Growth(here.stages).steps(0), 0, 1, 0)
    next(running)
    all_fetched(web)
    running.close()
    came = [name.partition(".")[0] for name in fetched(web)]  # a Counter keeps the order of its first counts
    assert set(came[:6]) == first
    assert set(came[6:]) == second


def all_fetched(web: Web) -> None:
    until = time.monotonic() + 10
    while len(fetched(web)) < 12:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_will_be_needed_is_not_evicted_for_what_another_run_will_need(
    mixed_shards: Path, web: Web, tmp_path: Path
):
    here = remote(settings("both", mixed_shards), web.put_folder(mixed_shards), tmp_path)
    needed = needed_bytes(here)
    barely = remote(here, here.data.shards, tmp_path, f"data.cache_bytes={needed}")
    running = batches(open_samples(barely), Growth(barely.stages).steps(0), 0, 1, 0)
    next(running)
    all_fetched(web)
    content = b"of another run"
    other = web.put("/other.tar", content), len(content), hashlib.sha256(content).hexdigest()
    assert Cache(tmp_path, needed).prefetch(*other) == "full"
    running.close()
    assert Cache(tmp_path, needed).prefetch(*other) == "here"


def test_shards_of_a_window_that_was_read_may_be_evicted(mixed_shards: Path, web: Web, tmp_path: Path):
    here = remote(settings("both", mixed_shards), web.put_folder(mixed_shards), tmp_path)
    windows = [{f"train-{n:06d}" for n in window} for window in open_samples(here).order.shards_from(0, 2)]
    running = batches(open_samples(here), Growth(here.stages).steps(0), 0, 1, 0)
    held = []
    for _ in range(EPOCH):  # each window has three batches
        next(running)
        all_fetched(web)
        held.append({path.name[17:].partition(".")[0] for path in tmp_path.glob("*-train-*") if not free(path)})
    running.close()
    assert held[2] == windows[0]
    assert held[3] <= windows[1]
    assert held[5] == windows[1]


def free(path: Path) -> bool:
    with Lock(path, os.O_RDONLY) as lock:
        return lock.exclusive(wait=False)
