"""A number that is none, in one rank of a real launch: its step is left out and counted, and the run ends well."""

import json
import time
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import Fault, finish, log_of, status_of, struck, weights
from tests.faults.record import record
from tests.training.small import config

SIDE = "t2f_dist.training.side:Side."
SHORT = (
    "train.precision=fp32",
    "stages.0.stable_images=96",
    "stages.1.fade_images=64",
    "stages.1.stable_images=0",
    "log.every_images=8",
    "checkpoint.every_images=64",
)
# Which network's steps each fault spoils. Of a step, the first call is for the discriminator.
SPOILT: dict[str, tuple[Fault, set[str]]] = {
    "loss of the discriminator": ({"at": SIDE + "backward", "tensor": "loss"}, {"discriminator"}),
    "loss of the generator": ({"at": SIDE + "backward", "tensor": "loss", "call": 2}, {"generator"}),
    "what is drawn from": (
        {"at": "t2f_dist.training.step:train_step", "tensor": "batch.z"},
        {"generator", "discriminator"},
    ),
}


def _metrics(settings: Config) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(settings.run) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("which", SPOILT)
def test_one_nan_on_one_rank_leaves_one_step_out(portrait_shards, tmp_path, which):
    fault, networks = SPOILT[which]
    settings = config("house", portrait_shards, tmp_path / "run", *SHORT)
    assert finish(settings, fault={"kind": "nan", "rank": 1, "images": 48, **fault}) == 0, log_of(settings)
    assert status_of(settings)["outcome"] == "finished"
    met = struck(settings, rank=1)
    assert met is not None and met["images_seen"] == 48
    for line in _metrics(settings):
        for network in ("generator", "discriminator"):
            bad = line["images"] == 56 and network in networks
            assert line[f"skipped_steps/{network}"] == float(bad), line["images"]
            assert (f"gradient_norm/{network}" in line) != bad, "what is no number is in no mean"
    assert all(tensor.isfinite().all() for tensor in weights(settings.run).values())
    record(f"a NaN in {which}", "the step is left out on all ranks, and the run goes on", images_lost=8)


FLIPPED: dict[str, tuple[Fault, str]] = {
    "a weight": ({"at": SIDE + "step", "tensor": "self.parameters.0"}, "networks.discriminator."),
    "the average": (
        {"at": "t2f_dist.training.gan:Gan.update_ema", "tensor": "self.generator_ema.synthesis.to_rgb.4.bias"},
        "generator_ema.synthesis.to_rgb.4.bias",
    ),
}


@pytest.mark.parametrize("what", ["a weight", pytest.param("the average", marks=pytest.mark.slow)])
def test_a_bit_that_flips_on_one_rank_stops_the_run_and_is_not_saved(portrait_shards, tmp_path, what):
    """After the checkpoint at 64 images and before the next comparison, at 80. Started again, it goes on from 64."""
    fault, name = FLIPPED[what]
    settings = config("house", portrait_shards, tmp_path / "run", *SHORT, "train.fingerprint_every_images=40")
    fault = {"kind": "flip", "rank": 1, "images": 64, "bit": 20, **fault}
    started = time.monotonic()
    assert finish(settings, fault=fault) == 1
    status = status_of(settings)
    assert status["outcome"] == "failed"
    assert f"at 80 images: ranks 0, 1 differ from each other in {name}" in status["reason"], status
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("images-*")] == ["images-000000000064"]
    record(f"a flipped bit in {what}", "stopped, naming tensor and ranks; not saved", 16, time.monotonic() - started)
    if what == "the average":
        assert finish(settings) == 0, log_of(settings)
        assert status_of(settings)["outcome"] == "finished"
