"""All networks of a run, built from its configuration, and the two halves of an adversarial game."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2f_dist.config.schema import Config
from t2f_dist.models.conditioning import ConditioningAugmentation
from t2f_dist.models.contrastive import ContrastiveHead
from t2f_dist.models.progan import Discriminator, Generator
from t2f_dist.models.text_encoder import TextEncoder


class ConditionalGenerator(nn.Module):
    """Caption to image: text encoder, conditioning, synthesis. Its moving average is what a snapshot holds."""

    def __init__(self, config: Config, num_words: int):
        super().__init__()
        self.text_encoder = TextEncoder(config.text_encoder, num_words)
        self.conditioning = ConditioningAugmentation(config.conditioning, config.text_encoder.output_size)
        self.synthesis = Generator(config.generator, config.conditioning.size)

    def forward(
        self, embedding: Tensor, condition_noise: Tensor, z: Tensor, resolution: int, alpha: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[N, E], [N, S], [N, Z] -> images [N, 3, R, R], and the condition's mean and log variance [N, S]."""
        condition, mean, log_variance = self.conditioning(embedding, condition_noise)
        return self.synthesis(condition, z, resolution, alpha), mean, log_variance


class Networks(nn.Module):
    """Both sides of the game: the generator; the discriminator, with the contrastive head where that term is on."""

    def __init__(self, config: Config, num_words: int):
        super().__init__()
        self.generator = ConditionalGenerator(config, num_words)
        embedding_size = config.text_encoder.output_size
        self.discriminator = Discriminator(config.discriminator, embedding_size)
        contrastive = config.loss.contrastive
        self.contrastive = (
            ContrastiveHead(contrastive, self.discriminator.feature_size, embedding_size) if contrastive.used else None
        )
        self.encoder_trained_by = config.text_encoder.trained_by

    def active(self, side: str, resolution: int, fading: bool) -> list[nn.Module]:
        """Layers that `side` ("generator" or "discriminator") trains in a step at this resolution."""
        generator = self.generator
        if side == "generator":
            layers = [generator.conditioning, *generator.synthesis.active(resolution, fading)]
        else:
            layers = self.discriminator.active(resolution, fading)
            layers += [self.contrastive] if self.contrastive is not None else []
        return layers + ([generator.text_encoder] if self.encoder_trained_by == side else [])


def build(config: Config, num_words: int) -> Networks:
    """Networks with weights that are a function of (config, seed) alone.

    Torch's global generator is seeded for the duration of the call and put back as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        networks = Networks(config, num_words)
    return networks.double() if config.train.precision == "fp64" else networks
