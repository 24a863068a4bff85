"""Ranks that are processes of their own and share the cache of a node."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.growth import Growth
from tests import s3
from tests.children import children
from tests.data.rank import digest
from tests.data.test_loader import BATCH, joined, settings
from tests.data.test_remote import fetched, needed_bytes, remote
from tests.web import served

pytestmark = pytest.mark.slow

STEPS = 16
WAIT_SECONDS = 120.0
Rank = subprocess.Popen[str]


@contextmanager
def node() -> Iterator[Callable[..., Rank]]:
    """-> what starts a rank of two."""
    with children() as child:

        def start(config: Config, rank: int, first_step: int = 0, num_steps: int = STEPS, pause: float = 0.0) -> Rank:
            given = {"config": config.model_dump(mode="json"), "rank": rank, "world_size": 2, "pause": pause}
            given |= {"first_step": first_step, "num_steps": num_steps}
            return child("tests.data.rank", json.dumps(given))

        yield start


def said(process: Rank) -> list[str]:
    """All that it says until it ends."""
    out, error = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, error
    return out.split()


def expected(config: Config, rank: int, num_steps: int = STEPS) -> list[str]:
    stream = batches(open_samples(config), Growth(config.stages).steps(0), rank, 2, 0)
    return [digest(joined((batch,))) for _, batch in zip(range(num_steps), stream)]


def test_ranks_that_share_a_cache_fetch_each_file_once(mixed_shards: Path, tmp_path: Path):
    local = settings("both", mixed_shards, "data.num_workers=2")
    with served() as web, node() as start:
        here = remote(local, web.put_folder(mixed_shards), tmp_path)
        for number in range(4):
            web.always[f"/shards/train-{number:06d}.tar"] = "slow"  # so that all want it while it comes
        ranks = [start(here, rank) for rank in range(2)]
        assert [said(rank) for rank in ranks] == [expected(local, rank) for rank in range(2)]
    files = ("tar", "index.npy", "small")
    assert fetched(web) == {f"train-{number:06d}.{suffix}": 1 for number in range(4) for suffix in files}


def test_a_killed_rank_goes_on_with_what_was_fetched(mixed_shards: Path, tmp_path: Path):
    local = settings("both", mixed_shards, "data.num_workers=1")
    with served() as web, node() as start:
        here = remote(local, web.put_folder(mixed_shards), tmp_path)
        later = open_samples(local).order.shards_from(0, 2)[1]
        for number in later:
            web.always[f"/shards/train-{number:06d}.tar"] = "slow"
        other, victim = start(here, 0), start(here, 1, pause=0.1)
        assert victim.stdout
        before = [victim.stdout.readline().strip() for _ in range(2)]
        until = time.monotonic() + WAIT_SECONDS
        while not any(web.gets[f"/shards/train-{number:06d}.tar"] for number in later):
            assert time.monotonic() < until
            time.sleep(0.01)
        victim.kill()
        victim.wait()
        again = start(here, 1, first_step=2, num_steps=STEPS - 2)
        assert said(other) == expected(local, 0)
        assert before + said(again) == expected(local, 1)
    counts = fetched(web)
    assert set(counts.values()) <= {1, 2}
    assert sum(counts.values()) <= 4 * 3 + 2  # again what was under way: of the rank, and of its loader process
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".part", ".fetch")]


def test_a_cache_of_two_windows_is_enough_for_ranks_with_loader_processes(portrait_shards: Path, tmp_path: Path):
    num_steps = 60
    longer = ("data.shuffle_window_shards=1", "stages.1.stable_images=480", "data.num_workers=1")
    local = settings("both", portrait_shards, *longer)
    with served() as web, node() as start:
        here = remote(local, web.put_folder(portrait_shards), tmp_path)
        barely = remote(here, here.data.shards, tmp_path, f"data.cache_bytes={needed_bytes(here)}")
        ranks = [start(barely, rank, num_steps=num_steps) for rank in range(2)]
        assert [said(rank) for rank in ranks] == [expected(local, rank, num_steps) for rank in range(2)]
    shards, order = open_samples(local).shards, open_samples(local).order
    num_windows = 1
    while sum(shards.listed[n].num_samples for (n,) in order.shards_from(0, num_windows)) < num_steps * BATCH:
        num_windows += 1
    visits = Counter(number for (number,) in order.shards_from(0, num_windows + 2))
    tars = Counter({number: fetched(web)[shard.name] for number, shard in enumerate(shards.listed)})
    assert barely.data.cache_bytes < sum(shard.bytes for shard in shards.listed) * 3 / 4
    assert sum(tars.values()) > len(shards.listed)
    assert tars <= visits + visits  # no step keeps these ranks together: each may fetch a shard for itself


def test_from_s3_it_is_the_same_stream(mixed_shards: Path, bucket: str, tmp_path: Path):
    local = settings("both", mixed_shards, "data.num_workers=1")
    s3.put(mixed_shards, f"{bucket}/shards")
    here = remote(local, f"{bucket}/shards", tmp_path)
    with node() as start:
        ranks = [start(here, rank) for rank in range(2)]
        assert [said(rank) for rank in ranks] == [expected(local, rank) for rank in range(2)]
    assert len(list(tmp_path.glob("*-train-*"))) == 4 * 3
