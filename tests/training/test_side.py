"""Only what a phase trains is exchanged, and it is as many bytes as are stated."""

import torch

from t2f_dist.data.loader import open_samples
from t2f_dist.training.corpus import facts
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from tests.training.small import config


def _exchanged(rank, world_size, shards):
    """By phase and side: what DDP itself says it exchanges, what the side states, parameters that ask for gradients."""
    settings = config("house", shards, shards)
    samples = open_samples(settings)
    gan = Gan(settings, facts(samples), torch.device("cpu"), world_size)
    found = {}
    for images in (0, 48, 96):  # 4 pixels; fading into 8; 8
        phase = Growth(settings.stages).at(images)
        assert gan.enter(phase)
        assert not gan.enter(phase), "a phase is entered once"
        for side in (gan.generator_side, gan.discriminator_side):
            told = side._wrapped._get_ddp_logging_data()["total_parameter_size_bytes"]
            asking = [p for group in side.optimizer.param_groups for p in group["params"] if p.requires_grad]
            size = sum(parameter.numel() * parameter.element_size() for parameter in asking)
            found[images, side.name] = (told, side.exchanged_bytes, size)
    gan.release()
    samples.close()
    return found


def test_the_exchange_is_that_of_the_active_layers(pair, portrait_shards):
    for found in pair.run(_exchanged, portrait_shards):
        assert all(told == stated == size for told, stated, size in found.values())
        for side in ("generator", "discriminator"):
            small, fading, large = (found[images, side][1] for images in (0, 48, 96))
            assert small < large < fading, "while fading, the old image layer is there too"
