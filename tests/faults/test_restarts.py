"""Restarts in place: the launcher starts all ranks again (--max_restarts), and they find each other, every time."""

import itertools
import os
import time
from collections.abc import Callable

import pytest

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import (
    Fault,
    assert_same_end,
    finish,
    log_of,
    processes_of,
    repeated_images,
    status_of,
    steps_of,
    struck,
)
from tests.faults.conftest import IN_LITTLE, MID_FADE
from tests.faults.record import record

SIDE = "t2f_dist.training.side:Side."
Anew = Callable[[str], tuple[Config, Config]]
# On one machine c10d has a fixed port, whatever is said: two launches at a time would meet each other.
ONE_AT_A_TIME = pytest.mark.xdist_group("ranks")

WHERE: dict[str, Fault] = {
    "step": {"at": SIDE + "step", "images": MID_FADE},
    "rank 0 has called": {"at": "t2f_dist.training.launch.rendezvous:_call", "after": True},
    "rank 1 has answered": {"at": "t2f_dist.training.launch.rendezvous:_answer", "after": True},
    "connecting": {"at": "t2f_dist.training.launch.ranks:Ranks.describe", "after": True},
    "resuming": {"at": "t2f_dist.training.loop:Training._begin", "after": True},
}


def _gaps(config: Config) -> list[float]:
    """Seconds between two launches' steps: from the last of one to the first of the next."""
    steps = steps_of(config)
    return [later - when for (when, before), (later, after) in itertools.pairwise(steps) if after <= before]


def test_a_launcher_with_restarts_starts_all_ranks_again_in_place(little):
    settings, quiet = little
    fault: Fault = {"kind": "kill", "rank": 1, "at": SIDE + "step", "images": IN_LITTLE}
    assert finish(settings, fault=fault, launcher=("--max_restarts", "1")) == 0, log_of(settings)
    assert struck(settings, 1) is not None and status_of(settings)["outcome"] == "finished"
    assert_same_end(settings, quiet)
    assert len(_gaps(settings)) == 1 and repeated_images(settings) <= settings.checkpoint.every_images + 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "rank", "where"),
    [
        ("static", 0, "step"),
        ("static", 1, "step"),
        pytest.param("c10d", 0, "step", marks=ONE_AT_A_TIME),
        pytest.param("c10d", 1, "step", marks=ONE_AT_A_TIME),
        ("static", 0, "rank 0 has called"),
        pytest.param("c10d", 1, "rank 1 has answered", marks=ONE_AT_A_TIME),
        pytest.param("c10d", 0, "connecting", marks=ONE_AT_A_TIME),
        ("static", 1, "resuming"),
    ],
)
def test_a_killed_rank_comes_back_in_place(anew: Anew, backend: str, rank: int, where: str):
    config, quiet = anew("house")
    fault: Fault = {"kind": "kill", "rank": rank, **WHERE[where]}
    launcher = ("--max_restarts", "1", "--rdzv_backend", backend)
    assert finish(config, fault=fault, launcher=launcher) == 0, log_of(config)
    assert struck(config, rank) is not None
    assert status_of(config)["outcome"] == "finished"
    assert processes_of(config) == []
    assert_same_end(config, quiet)
    lost = repeated_images(config)
    assert lost <= config.checkpoint.every_images + 8
    gaps = _gaps(config) if where == "step" else []
    record(f"SIGKILL, rank {rank}, {where}, restart in place, {backend}", "bit-identical", lost, *gaps)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["static", pytest.param("c10d", marks=ONE_AT_A_TIME)])
def test_one_rank_after_the_other_is_killed_and_comes_back(anew: Anew, backend: str):
    config, quiet = anew("both")
    faults: list[Fault] = [
        {"kind": "kill", "rank": number % 2, "at": SIDE + "step", "images": images}
        for number, images in enumerate((104, 208, 416, 608))
    ]
    launcher = ("--max_restarts", "4", "--rdzv_backend", backend)
    started = time.monotonic()
    assert finish(config, fault=faults, timeout=400, launcher=launcher) == 0, log_of(config)
    assert all(struck(config, number % 2, number) for number in range(4))
    assert_same_end(config, quiet)
    assert len(_gaps(config)) == 4
    each = sum(_gaps(config)) / 4
    record(f"SIGKILL four times, restarts in place, {backend}", "bit-identical", repeated_images(config), each)
    assert time.monotonic() - started < 400


@pytest.mark.slow
@ONE_AT_A_TIME
def test_it_comes_back_too_where_rank_0_keeps_the_store(anew: Anew):
    config, quiet = anew("house")
    fault: Fault = {"kind": "kill", "rank": 0, **WHERE["step"]}
    environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    launcher = ("--max_restarts", "1", "--rdzv_backend", "c10d")
    assert finish(config, fault=fault, launcher=launcher, environment=environment) == 0, log_of(config)
    assert_same_end(config, quiet)


@pytest.mark.slow
def test_when_no_restart_is_left_the_launch_ends_and_the_same_command_goes_on(anew: Anew):
    config, quiet = anew("house")
    faults: list[Fault] = [
        {"kind": "kill", "rank": number, "at": SIDE + "step", "images": MID_FADE + 80 * number} for number in range(2)
    ]
    assert finish(config, fault=faults, launcher=("--max_restarts", "1")) != 0
    assert processes_of(config) == []
    assert finish(config) == 0, log_of(config)
    assert_same_end(config, quiet)
