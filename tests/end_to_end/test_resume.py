"""Runs that are killed and started again, by real launches of two ranks."""

import os
import signal
from pathlib import Path

import pytest

from t2f_dist.training import checkpoint
from tests.end_to_end.launches import (
    assert_same_end,
    finish,
    launch,
    log_of,
    processes_of,
    ranks_of,
    status_of,
    wait_for,
)
from tests.training.small import config

# Long enough that a signal meets it in the middle of the fade, from 400 to 1200 images.
LONG = (
    "train.precision=bf16",
    "train.channels_last=true",
    "stages.0.stable_images=400",
    "stages.1.fade_images=800",
    "stages.1.stable_images=400",
    "checkpoint.every_images=120",
)


@pytest.fixture(scope="module", params=["house", pytest.param("both", marks=pytest.mark.slow)])
def quiet(portrait_shards, tmp_path_factory, request):
    """A run that nothing disturbs."""
    settings = config(request.param, portrait_shards, tmp_path_factory.mktemp("quiet") / "run", *LONG)
    assert finish(settings) == 0, log_of(settings)
    assert status_of(settings)["outcome"] == "finished"
    return settings


def _mid_fade(settings):
    """Whether a checkpoint of the fade has been written."""
    found = checkpoint.found(Path(settings.run) / "checkpoints")
    return bool(found) and int(found[0].name[7:]) >= 600


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_killed_in_the_middle_of_a_fade_it_ends_bit_identical(quiet, tmp_path, victim):
    settings = quiet.model_copy(update={"run": str(tmp_path / "run")})
    with launch(settings) as process:
        wait_for(lambda: _mid_fade(settings), process, "a checkpoint in the fade")
        os.kill(ranks_of(process)[victim], signal.SIGKILL)
        assert process.wait(60) != 0
    reached = int(checkpoint.found(Path(settings.run) / "checkpoints")[0].name[7:])
    assert 600 <= reached < 1200
    assert status_of(settings)["outcome"] in ("failed", "running")
    assert finish(settings) == 0, log_of(settings)
    assert f"resuming at {reached:,} images" in log_of(settings)
    assert_same_end(settings, quiet)


@pytest.mark.parametrize(
    ("number", "whom", "num_workers"),
    [(signal.SIGTERM, "launcher", 2), pytest.param(signal.SIGUSR1, "rank", 0, marks=pytest.mark.slow)],
)
def test_asked_to_stop_all_ranks_save_and_leave_and_the_next_run_goes_on(quiet, tmp_path, number, whom, num_workers):
    data = quiet.data.model_copy(update={"num_workers": num_workers})  # the launcher's signal reaches them too
    settings = quiet.model_copy(update={"run": str(tmp_path / "run"), "data": data})
    with launch(settings) as process:
        wait_for(lambda: _mid_fade(settings), process, "a checkpoint in the fade")
        os.kill(process.pid if whom == "launcher" else ranks_of(process)[1], number)
        assert process.wait(60) != 0
    assert processes_of(settings) == []
    stopped = status_of(settings)
    assert (stopped["outcome"], stopped["reason"]) == ("preempted", f"{number.name} received")
    newest = checkpoint.found(Path(settings.run) / "checkpoints")[0]
    assert int(newest.name[7:]) == stopped["images_seen"] < 1600
    assert finish(settings) == 0, log_of(settings)
    assert status_of(settings)["outcome"] == "finished"
    assert_same_end(settings, quiet)
