"""All networks of a run, built from its configuration, and the two halves of an adversarial game."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2f_dist.config import networks as sections
from t2f_dist.config.schema import Config
from t2f_dist.models import dcgan, msggan, progan
from t2f_dist.models.batch_norm import GroupBatchNorm
from t2f_dist.models.condition import ConditionEncoder
from t2f_dist.models.condition_queue import ConditionQueue
from t2f_dist.models.conditioning import CONDITIONINGS
from t2f_dist.models.contrastive import ContrastiveHead
from t2f_dist.models.facts import Facts
from t2f_dist.models.identity import IdentityHead
from t2f_dist.models.layers import Images
from t2f_dist.models.spectral_norm import SpectralNorm

GENERATORS = {
    sections.Progan: progan.Generator,
    sections.Msggan: msggan.Generator,
    sections.Dcgan: dcgan.Generator,
}
DISCRIMINATORS = {
    sections.ProganCritic: progan.Discriminator,
    sections.MsgganCritic: msggan.Discriminator,
    sections.DcganCritic: dcgan.Discriminator,
}


class ConditionalGenerator(nn.Module):
    """Condition to image: encoders, conditioning, synthesis. Its moving average is what a snapshot holds."""

    def __init__(self, config: Config, facts: Facts):
        super().__init__()
        self.encoder = ConditionEncoder(config.condition, facts, config.batch_norm)
        section = config.conditioning
        self.conditioning = CONDITIONINGS[type(section)](section, self.encoder.output_size, config.batch_norm)
        section = config.generator
        self.synthesis = GENERATORS[type(section)](section, self.conditioning.size, config.batch_norm)

    def forward(
        self, embedding: Tensor, noise: Tensor, z: Tensor, dropout_key: Tensor, resolution: int, alpha: float
    ) -> tuple[Images, Tensor, Tensor]:
        """[N, E], [N, noise size], [N, Z], [N] -> images, and the condition's mean and log variance [N, S]."""
        condition, mean, log_variance = self.conditioning(embedding, noise)
        return self.synthesis(condition, z, resolution, alpha, dropout_key), mean, log_variance


class Networks(nn.Module):
    """Both sides of the game: the generator; the discriminator; and the heads that some loss terms have."""

    def __init__(self, config: Config, facts: Facts):
        super().__init__()
        self.generator = ConditionalGenerator(config, facts)
        size = self.generator.encoder.output_size
        section, loss = config.discriminator, config.loss
        self.discriminator = DISCRIMINATORS[type(section)](section, size, config.batch_norm)
        features = self.discriminator.feature_size
        self.contrastive = ContrastiveHead(loss.contrastive, features, size) if loss.contrastive.used else None
        queue = loss.contrastive.queue_size if loss.contrastive.used else 0
        self.queue = ConditionQueue(queue, loss.contrastive.size) if queue else None
        identities = facts.num_identities
        self.condition_identity = (
            IdentityHead(size, identities, config.batch_norm) if loss.identity.condition_weight else None
        )
        self.image_identity = (
            IdentityHead(features, identities, config.batch_norm) if loss.identity.image_weight else None
        )
        self.encoder_trained_by = config.condition.trained_by

    def heads(self, side: str) -> list[nn.Module]:
        """What `side` ("generator" or "discriminator") trains beside its own network and the encoders."""
        heads = [self.contrastive, self.image_identity] if side == "discriminator" else []
        heads += [self.condition_identity] if side == self.encoder_trained_by else []
        return [head for head in heads if head is not None]

    def active(self, side: str, resolution: int, fading: bool) -> list[nn.Module]:
        """Layers that `side` trains in a step at this resolution."""
        generator = self.generator
        if side == "generator":
            layers = [generator.conditioning, *generator.synthesis.active(resolution, fading)]
        else:
            layers = self.discriminator.active(resolution, fading)
        layers = [*layers, *self.heads(side)]
        return layers + ([generator.encoder] if self.encoder_trained_by == side else [])

    @property
    def batch_norms(self) -> list[GroupBatchNorm]:
        """Of the generator: those whose running statistics a snapshot draws with."""
        return [module for module in self.generator.modules() if isinstance(module, GroupBatchNorm)]


def begin_step(network: nn.Module) -> None:
    """What layers do once a step, however often they are used in it: a power iteration, a new count of statistics."""
    for module in network.modules():
        if isinstance(module, SpectralNorm):
            module.iterate()
        elif isinstance(module, GroupBatchNorm):
            module.forget()


def build(config: Config, facts: Facts) -> Networks:
    """Networks with weights that are a function of (config, seed) alone.

    Torch's global generator is seeded for the duration of the call and put back as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        networks = Networks(config, facts)
    return networks.double() if config.train.precision == "fp64" else networks
