"""A run is asked to stop: all ranks save and leave within the grace period, and no image is lost."""

import signal
import time
from collections.abc import Callable

import pytest

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import (
    Fault,
    assert_same_end,
    finish,
    log_of,
    repeated_images,
    status_of,
    steps_of,
    struck,
    until_finished,
)
from tests.faults.conftest import IN_LITTLE, MID_FADE
from tests.faults.record import record

GRACE_SECONDS = 120.0  # on a busy machine; a second or two else
STEP = "t2f_dist.training.side:Side.step"
Anew = Callable[[str], tuple[Config, Config]]

# Which signal, to whom of a rank (the main one, if not said) and its launcher, how often, and where.
CASES: dict[str, tuple[str, str, int, Fault]] = {
    "SIGTERM to the launcher": ("SIGTERM", "launcher", 1, {"at": STEP, "images": MID_FADE}),
    "SIGINT to the launcher": ("SIGINT", "launcher", 1, {"at": STEP, "images": MID_FADE}),
    "SIGUSR1 to the launcher": ("SIGUSR1", "launcher", 1, {"at": STEP, "images": MID_FADE}),
    "SIGHUP to the launcher": ("SIGHUP", "launcher", 1, {"at": STEP, "images": MID_FADE}),
    "SIGTERM to rank 1": ("SIGTERM", "self", 1, {"at": STEP, "images": MID_FADE, "rank": 1}),
    "SIGUSR1 to a rank": ("SIGUSR1", "self", 1, {"at": STEP, "images": MID_FADE}),
    "SIGINT to a rank": ("SIGINT", "self", 1, {"at": STEP, "images": MID_FADE}),
    "SIGTERM to a rank, three times": ("SIGTERM", "self", 3, {"at": STEP, "images": MID_FADE}),
    "SIGTERM during a save": (
        "SIGTERM", "self", 1, {"at": "t2f_dist.storage.folder:Folder.write", "images": MID_FADE, "call": 2},
    ),
    "SIGUSR1 during a snapshot": (
        "SIGUSR1", "self", 1, {"at": "t2f_dist.models.snapshot:_digest", "images": MID_FADE},
    ),
    "SIGTERM to the launcher at growth": (
        "SIGTERM", "launcher", 1, {"at": "t2f_dist.training.side:Side.activate", "images": 200, "call": 2},
    ),
    "SIGUSR1 before the first step": (
        "SIGUSR1", "self", 1, {"at": "t2f_dist.training.loop:open_samples", "after": True},
    ),
    "SIGTERM in the last step": ("SIGTERM", "self", 1, {"at": STEP, "images": 792, "call": 2}),
}  # fmt: skip


def stopped(config: Config, faults: list[Fault], number: int = 0) -> float:
    """A launch that is asked to stop, and leaves by itself; the time at which it was asked."""
    code = finish(config, fault=faults)
    asked = struck(config, faults[number]["rank"], number)
    assert asked is not None and time.time() - asked["time"] < GRACE_SECONDS
    assert (code == 0) == (status_of(config)["outcome"] == "finished")
    return asked["time"]


def goes_on(config: Config, quiet: Config, name: str, when: float) -> None:
    steps = len(steps_of(config))
    assert until_finished(config, module="tests.faults.injected") == 1
    assert_same_end(config, quiet)
    again = steps_of(config)[steps:]
    assert repeated_images(config) == 0, "each image was trained once"
    record(name, "saved, bit-identical", 0, again[0][0] - when if again else None)


def test_a_launcher_that_is_asked_to_stop_has_its_ranks_save_first(little, trained_on):
    settings, quiet = little
    fault = {"kind": "signal", "signal": "SIGTERM", "to": "launcher", "rank": 0, "at": STEP, "images": IN_LITTLE}
    stopped(settings, [fault])
    found = status_of(settings)
    assert (found["outcome"], found["reason"], found["retry"]) == ("preempted", "SIGTERM received", True)
    assert f"saved at {found['images_seen']:,} images; the same command goes on from here" in log_of(settings)
    trained_on(settings)
    assert_same_end(settings, quiet)
    assert repeated_images(settings) == 0, "each image was trained once"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_asked_to_stop_all_ranks_save_and_leave_and_no_image_is_lost(anew: Anew, name: str):
    number, to, times, where = CASES[name]
    config, quiet = anew("both" if "growth" in name else "house")
    when = stopped(config, [{"kind": "signal", "signal": number, "to": to, "rank": 0} | where] * times)
    found = status_of(config)
    if found["outcome"] == "finished":
        assert "last step" in name, "there the end comes first"
    else:
        # The launcher passes SIGINT on as it is; what it ends its ranks with is its own affair.
        reasons = {f"{signal.Signals[number].name} received"} | ({"SIGTERM received"} if to == "launcher" else set())
        if (number, to) == ("SIGUSR1", "launcher"):  # which it does not know, and dies of
            reasons = {"a launcher was killed"}
        assert found["outcome"] == "preempted" and found["reason"] in reasons and found["retry"]
        assert f"saved at {found['images_seen']:,} images; the same command goes on from here" in log_of(config)
    goes_on(config, quiet, name, when)


@pytest.mark.slow
def test_asked_to_stop_while_it_resumes_it_resumes_again(anew: Anew):
    config, quiet = anew("house")
    term: Fault = {"kind": "signal", "signal": "SIGTERM", "rank": 0}
    first = {**term, "at": STEP, "images": MID_FADE}
    stopped(config, [first])
    saved = status_of(config)["images_seen"]
    loading = {**term, "at": "t2f_dist.training.checkpoints.checkpoint:_fill_optimizer"}
    when = stopped(config, [first, loading], 1)
    assert status_of(config)["outcome"] == "preempted"
    assert saved <= status_of(config)["images_seen"] <= saved + 8, "the ranks agree at the step after"
    goes_on(config, quiet, "SIGTERM while resuming", when)
