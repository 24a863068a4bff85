"""What is measured, over two real ranks."""

import time

import pytest
import torch

from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.run.meter import Meter, Report
from tests.ranks import Pair


def _burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def _measure(rank: int, world_size: int, busy: int) -> tuple[Report, Report]:
    """Three steps: rank `busy` works, the other waits for it in an exchange; rank 0 waits for data."""
    ranks = Ranks(30)
    meter = Meter(ranks)
    for step in range(3):
        with meter.waiting():
            time.sleep(0.04 if rank == 0 else 0)
        with meter.working():
            if rank == busy:
                _burn(0.1)
            ranks.barrier()
        metrics = {"loss": torch.tensor(10.0 * rank + step)}
        if step == 1:
            metrics["lazy"] = torch.tensor(6.0 + rank)  # a term that is not there at each step
        meter.add(metrics, 8)
    meter.num_damaged = rank + 1
    first = meter.report()
    meter.add({"loss": torch.tensor(1.0)}, 8)
    return first, meter.report()


@pytest.mark.parametrize("busy", [0, 1])
def test_the_slowest_rank_is_the_one_that_works_not_the_one_that_waits(pair: Pair, busy: int):
    ours, theirs = pair.run(_measure, busy)
    assert ours[0].means == theirs[0].means == {"lazy": 6.5, "loss": 6.0}
    report = ours[0]
    assert report.slowest_rank == theirs[0].slowest_rank == busy
    assert report.step_seconds == theirs[0].step_seconds
    assert 0.08 <= report.step_seconds.minimum <= report.step_seconds.median <= report.step_seconds.maximum
    assert report.data_wait_seconds.minimum < 0.01 < 0.04 <= report.data_wait_seconds.maximum
    assert 0.02 <= report.data_wait_seconds.median < report.data_wait_seconds.maximum
    assert report.data_wait_seconds.median == pytest.approx(
        (report.data_wait_seconds.minimum + report.data_wait_seconds.maximum) / 2
    ), "of two ranks, the median is the mean"
    share = report.data_wait_seconds.median / report.step_seconds.median
    assert report.data_wait_share == pytest.approx(share, rel=0.3)
    assert report.images_per_second <= 8 / 0.08
    assert 0.05 < report.memory_gib.minimum <= report.memory_gib.maximum < 64
    assert report.num_damaged == 3


def test_each_report_is_of_its_own_steps_alone_but_damage_is_counted_on(pair: Pair):
    second = pair.run(_measure, 0)[0][1]
    assert second.means == {"loss": 1.0}
    assert second.data_wait_seconds.maximum == 0
    assert second.num_damaged == 3


def test_every_figure_has_a_name_and_a_number(pair: Pair):
    flat = pair.run(_measure, 0)[0][0].flat()
    assert flat["loss"] == 6.0
    assert all(isinstance(value, (int, float)) for value in flat.values())
    spreads = {f"ranks/{name}_{part}" for name in ("step_seconds", "work_seconds", "data_wait_seconds", "memory_gib")
               for part in ("minimum", "median", "maximum")}  # fmt: skip
    speed = {"speed/images_per_second", "speed/data_wait_share", "speed/num_damaged", "speed/slowest_rank"}
    assert flat.keys() == {"loss", "lazy"} | spreads | speed


def _spoilt(rank: int, world_size: int) -> Report:
    """A term that is not finite in a step of rank 1, one that never is, and a share of steps."""
    meter = Meter(Ranks(30))
    for step in range(3):
        bad = rank == 1 and step == 2
        loss = torch.tensor(torch.nan if bad else 10.0 * rank + step)
        meter.add({"loss": loss, "never": torch.tensor(torch.inf), "skipped": torch.tensor(float(step == 2))}, 8)
    return meter.report()


def test_what_is_not_finite_has_no_part_in_a_mean(pair: Pair):
    for report in pair.run(_spoilt):
        assert report.means == {"loss": pytest.approx((0 + 1 + 2 + 10 + 11) / 5), "skipped": pytest.approx(1 / 3)}
