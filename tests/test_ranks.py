"""The pair of ranks itself: collectives work, failures come back whole, a hang ends."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.ranks import Pair, RankFailure


def _summed(rank: int, world_size: int, value: float) -> tuple[int, torch.Tensor]:
    total = torch.tensor([value * (rank + 1)])
    dist.all_reduce(total)
    return os.getpid(), total


def _fail_in_one(rank: int, world_size: int, which: int) -> None:
    if rank == which:
        raise ValueError(f"rank {rank} does not like this")
    dist.barrier()


def _hang(rank: int, world_size: int) -> None:
    if rank == 1:
        time.sleep(600)


def _die(rank: int, world_size: int) -> None:
    if rank == 0:
        os._exit(7)
    dist.barrier()


def test_all_that_use_the_pair_run_on_one_worker(request: pytest.FixtureRequest, pair: Pair):
    if not request.config.getoption("loadgroup", False):
        pytest.skip("tests are not shared out over workers by groups")
    assert request.node.nodeid.endswith("@ranks"), "the groups have no effect: each worker has a pair of its own"


def test_a_job_runs_in_both_ranks_of_one_group(pair: Pair):
    (first, total0), (second, total1) = pair.run(_summed, 2.5)
    assert total0.item() == total1.item() == 7.5
    assert len({first, second, os.getpid()}) == 3
    assert [pid for pid, _ in pair.run(_summed, 1.0)] == [first, second], "the ranks live on between jobs"


def test_an_exception_comes_back_with_its_traceback_and_the_next_job_runs(pair: Pair):
    started = time.monotonic()
    with pytest.raises(RankFailure) as failure:
        pair.run(_fail_in_one, 1)
    assert time.monotonic() - started < 30, "the rank left alone in the barrier is not waited for"
    assert "ValueError: rank 1 does not like this" in failure.value.by_rank[1]
    assert "_fail_in_one" in failure.value.by_rank[1]
    assert pair.run(_summed, 1.0)[0][1].item() == 3.0


def test_a_hang_is_ended_and_its_place_named(pair: Pair):
    pair.run(_summed, 1.0)  # fresh ranks import this module first, which takes as long as it takes
    with pytest.raises(RankFailure, match=r"_hang was not done after 0\.5 s in rank 1") as failure:
        pair.run(_hang, timeout=0.5)
    assert list(failure.value.by_rank) == [1]
    assert "in _hang" in failure.value.by_rank[1]


def test_a_rank_that_dies_is_named(pair: Pair):
    with pytest.raises(RankFailure, match="exit code 7") as failure:
        pair.run(_die)
    assert 0 in failure.value.by_rank
