"""The training step of t2f-dist with the networks, batch and loss of pro-gan-pth 3.4; requests on standard input."""

import itertools

import ready
import torch
import training

from t2f_dist.config.load import resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.corpus import facts
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from t2f_dist.training.step import train_step

ADAM = {"learning_rate": 0.003, "beta_1": 0.0, "beta_2": 0.99, "eps": 1e-8}


def answer(request: dict) -> dict:
    resolution, size, channels = request["resolution"], request["batch_size"], request["channels"]
    network = {"kind": "progan", "channels": channels}
    mapping = {
        "data": {"shards": request["folder"], "num_workers": 0},
        "generator": {**network, "z_size": channels[0], "normalize_latent": True},
        "discriminator": {
            **network, "head": "unconditional", "from_rgb_activation": True, "stddev_group_size": 4,
        },
        "loss": {
            "adversarial": {"kind": "wgan"},
            "drift_weight": 1e-3,
            "matching": {"weight": 0},
            "penalties": [{"kind": "wgan_gp", "weight": 10.0}],
        },
        "optimizer": {"generator": ADAM, "discriminator": ADAM},
        "stages": [{"resolution": r, "stable_images": size, "batch_size": size} for r in request["stages"]],
        "train": {"precision": request["precision"], "channels_last": request["precision"] == "bf16"},
    }  # fmt: skip
    config = resolve(Config, mapping)
    torch.manual_seed(0)
    samples = open_samples(config)
    gan = Gan(config, facts(samples), torch.device("cpu"), world_size=1)
    growth = Growth(config.stages)
    first = request["stages"].index(resolution) * size
    phase = growth.at(first)
    assert phase.resolution == resolution and not phase.fading
    stream = batches(samples, ((first, size, resolution) for _ in itertools.count()), 0, 1, 0)
    batch = next(stream)
    gan.enter(phase)

    def step() -> None:
        train_step(gan, batch, phase, first, 1)
        gan.update_ema(first, size)

    found = training.measured(step, size, request["precision"], request["steps"])
    stream.close()
    gan.release()
    samples.close()
    return found


ready.serve(answer)
