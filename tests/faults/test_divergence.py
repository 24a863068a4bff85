"""Numbers that go wrong again and again: back to the last checkpoint, and if it comes again, an end with a report."""

import re
from pathlib import Path

import pytest

from tests.end_to_end.launches import Fault, finish, log_of, status_of, steps_of
from tests.faults.record import record
from tests.faults.test_numbers import SHORT
from tests.training.small import config

# What a broken memory or a sample does: each fake that the last rank draws from is none from here on.
ALWAYS: Fault = {
    "kind": "nan", "at": "t2f_dist.training.step:train_step", "tensor": "batch.z", "rank": 1, "images": 80,
    "call": None, "once": False,
}  # fmt: skip


def test_what_goes_wrong_for_good_is_tried_again_once_and_then_reported(portrait_shards, tmp_path):
    settings = config("house", portrait_shards, tmp_path / "run", *SHORT, "train.skipped_steps_max=3")
    assert finish(settings, fault=ALWAYS) == 1
    status = status_of(settings)
    assert status["outcome"] == "failed" and status["retry"] is False
    reason = status["reason"]
    assert reason.startswith("3 steps of the generator in a row, from 80 images on, were left out")
    assert re.search(r"the gradient of generator\.\S+, .* of \d+ parameters, is not finite", reason)
    assert "rank 1: generator/adversarial is nan" in reason and re.search(r"\S+ in train-\d{6}\.tar", reason)
    assert "rank 0" not in reason
    images = [seen for _, seen in steps_of(settings, rank=0)]
    assert images == [*range(0, 104, 8), *range(64, 104, 8)], "from 64 once more, and no third time"
    assert sorted(path.name for path in Path(settings.run, "checkpoints").glob("images-*")) == ["images-000000000064"]
    record("NaN at each step from one on", "back to the checkpoint once, then an end with a report", 40)


@pytest.mark.slow
def test_what_goes_wrong_for_a_while_costs_the_images_since_the_checkpoint(portrait_shards, tmp_path):
    """Three bad steps in a row, and none when they are computed again."""
    settings = config("house", portrait_shards, tmp_path / "run", *SHORT, "train.skipped_steps_max=3")
    faults = [{**ALWAYS, "images": images, "call": 1, "once": True} for images in (80, 88, 96)]
    assert finish(settings, fault=faults) == 0, log_of(settings)
    assert status_of(settings)["outcome"] == "finished"
    images = [seen for _, seen in steps_of(settings, rank=0)]
    assert images == [*range(0, 104, 8), *range(64, 160, 8)]
    record("NaN at some steps in a row", "back to the checkpoint, and on", 40)
