"""A rank hangs, or is stopped: the run ends in time and says which one, and the same command ends as the quiet run."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from t2f_dist.training.run.status import EXIT_HUNG
from tests.end_to_end.launches import (
    Fault,
    assert_same_end,
    finish,
    log_of,
    processes_of,
    repeated_images,
    status_of,
    struck,
    until_finished,
)
from tests.faults.conftest import MID_FADE, SHORT
from tests.faults.record import record
from tests.training.small import config

BOUND = 5  # seconds
SLACK = 8.0  # seconds that a busy machine may add
SIDE = "t2f_dist.training.side:Side."
Anew = Callable[[str], tuple[Config, Config]]

# What hangs, where, and the phase that is named.
HANGS: dict[str, tuple[str, Fault, str]] = {
    "discriminator step": ("house", {"at": SIDE + "backward", "images": MID_FADE}, "training step"),
    "report": ("house", {"at": "t2f_dist.training.run.meter:Meter.report", "images": MID_FADE}, "logging"),
    "agreement": ("house", {"at": "t2f_dist.training.launch.ranks:Agreement.stop", "images": MID_FADE}, "agreeing"),
    "a loader process": (
        "house",
        {"at": "t2f_dist.data.dataset:Samples.batch", "call": 30, "once": True},
        "waiting for data",
    ),
    "leaving": ("house", {"at": "t2f_dist.training.launch.ranks:Agreement.settle"}, "leaving"),
}
OF_THE_MAIN_RANK: dict[str, tuple[str, Fault, str]] = {
    "grid": ("house", {"at": "t2f_dist.training.run.pictures:Pictures.draw", "images": MID_FADE}, "drawing the grid"),
    "snapshot": ("house", {"at": "t2f_dist.models.snapshot:save", "images": MID_FADE}, "taking a snapshot"),
}


def bounded(config: Config) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"timeout_seconds": BOUND})})


def hung(config: Config, fault: Fault, outcome: str = "failed") -> tuple[float, str]:
    """A launch that ends by its watchdog. Returns the seconds from the fault to the end of the launcher, and why."""
    assert finish(config, fault=fault) != 0, log_of(config)
    when = struck(config, fault["rank"])
    assert when is not None, log_of(config)
    seconds = time.time() - when["time"]
    assert seconds < 1.5 * BOUND + SLACK, log_of(config)
    deadline = time.monotonic() + SLACK
    while processes_of(config) and time.monotonic() < deadline:  # loaders of a killed rank look for it every 5 s
        time.sleep(0.05)
    assert processes_of(config) == []
    reasons = {path.read_text().split("\n")[0] for path in Path(config.run).glob("hang-*.txt")}
    assert len(reasons) == 1
    reason = reasons.pop()
    known = status_of(config)
    assert known["outcome"] == outcome
    assert outcome == "finished" or (known["reason"], known["retry"]) == (reason, True)
    assert log_of(config).count(f"error: {reason}") == 1
    assert re.search(rf"exitcode *: {EXIT_HUNG} ", log_of(config))
    return seconds, reason


def goes_on(config: Config, quiet: Config, name: str, seconds: float) -> None:
    assert until_finished(config, module="tests.faults.injected") == 1
    assert_same_end(config, quiet)
    record(f"hang, {name}", f"ended with exit code {EXIT_HUNG}, then bit-identical", repeated_images(config), seconds)


def test_a_rank_that_hangs_ends_the_run_and_is_named(portrait_shards, tmp_path):
    settings = bounded(config("house", portrait_shards, tmp_path / "run", *SHORT))
    seconds, reason = hung(settings, {"kind": "sleep", "rank": 1, "at": SIDE + "step", "images": 40})
    assert re.match(r'rank 1 hangs in "training step" at 40 images since \d s: injected\.py:\d+ in _strike < ', reason)
    assert "_strike" in (tmp_path / "run" / "hang-1.txt").read_text()
    other = (tmp_path / "run" / "hang-0.txt").read_text()
    assert other.startswith(reason) and "thread MainThread" in other
    record("hang, training step", f"ended with exit code {EXIT_HUNG}", None, seconds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rank"), [*((name, rank) for name in HANGS for rank in (0, 1)), *((name, 0) for name in OF_THE_MAIN_RANK)]
)
def test_wherever_a_rank_hangs_it_is_named_and_the_same_command_goes_on(anew: Anew, name: str, rank: int):
    recipe, where, phase = (HANGS | OF_THE_MAIN_RANK)[name]
    settings, quiet = anew(recipe)
    settings = bounded(settings)
    # What is done when a rank hangs as it leaves is done: nothing has to be trained again.
    outcome = "finished" if phase == "leaving" else "failed"
    seconds, reason = hung(settings, {"kind": "sleep", "rank": rank, **where}, outcome)
    assert reason.startswith(f'rank {rank} hangs in "{phase}" at ')
    goes_on(settings, quiet, f"rank {rank}, {name}", seconds)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    "where", [{"at": SIDE + "step", "images": MID_FADE}, HANGS["leaving"][1]], ids=["step", "leaving"]
)
def test_a_rank_that_is_stopped_is_named_and_the_same_command_goes_on(anew: Anew, where: Fault, rank: int):
    settings, quiet = anew("house")
    settings = bounded(settings)
    outcome = "failed" if "images" in where else "finished"
    seconds, reason = hung(settings, {"kind": "stop", "rank": rank, **where}, outcome)
    assert re.match(rf"rank {rank} \(pid \d+ on .*\) has not answered for \d+ s and more: it is stopped", reason)
    goes_on(settings, quiet, f"rank {rank}, stopped{' as it leaves' if outcome == 'finished' else ''}", seconds)
