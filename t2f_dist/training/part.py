"""A part of a rank's share of a global batch: its reals, its condition, the fakes drawn for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from t2f_dist.data.batch import Batch, Inputs
from t2f_dist.models.augment import augment
from t2f_dist.models.condition import concatenate
from t2f_dist.models.layers import Images, at_least_float32, downsample, upsample
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase

REALS, FAKES, GENERATED = range(3)  # whose draws decide an augmentation


def fade(images: Tensor, alpha: float) -> Tensor:
    """Real images blended with their own half resolution, as a fading generator blends (1710.10196, figure 2)."""
    return images if alpha >= 1 else torch.lerp(upsample(downsample(images)), images, alpha)


def _any_present(inputs: Inputs, num: int, device: torch.device) -> Tensor:
    present = torch.zeros(num, dtype=torch.bool)
    for _, lengths in inputs.values():
        present |= lengths.cpu() > 0
    return present.to(device)


@dataclass
class Drawing:
    fakes: Images
    mean: Tensor  # [N, S]
    log_variance: Tensor  # [N, S]


class Part:
    """N consecutive positions. Embeddings, drawings and vectors are filled in as the step goes on."""

    def __init__(self, gan: Gan, batch: Batch, phase: Phase):
        self.gan, self.batch, self.phase = gan, batch, phase
        self.reals = self._reals(batch.images)
        self.embedding = torch.empty(0)  # [N, E] of its own condition
        self.mismatched = torch.empty(0)  # [N, E] of the other identity's
        self.drawing: Drawing | None = None
        self.half_way = torch.empty(0)  # [N, E] between the two
        self.between: Drawing | None = None  # drawn for it
        self.condition_vectors = torch.empty(0)  # [N, S], for the queue
        self.present = _any_present(batch.condition, len(batch), gan.device)  # bool [N]: it has some condition
        self.opposed = _any_present(batch.mismatched, len(batch), gan.device)  # bool [N]: and a mismatched one
        self.suspects: dict[str, Tensor] = {}  # bool [N]: what of a sample is not finite
        self.sign_sum = torch.zeros((), dtype=torch.float64, device=gan.device)  # of the scores of reals

    def _reals(self, stored: Tensor) -> Images:
        images = stored.to(self.gan.precision.weights) / 127.5 - 1
        if self.gan.config.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.gan.networks.discriminator.views(fade(images, self.phase.alpha))

    @property
    def negative_identities(self) -> Tensor:
        """Of the mismatched conditions; its own identity where a position has none."""
        return torch.where(self.opposed, self.batch.mismatched_identities, self.batch.identities)

    @property
    def mismatched_reals(self) -> Images:
        """Of the other identity."""
        return self._reals(self.batch.mismatched_images)

    def seen(self, images: Images, whose: int) -> Images:
        """What the discriminator is shown of them: augmented, where the configuration says so."""
        section = self.gan.config.augment
        if section is None:
            return images
        probability = self.gan.ada.probability if self.gan.ada is not None else 1.0
        augmented = augment(images, self.batch.augment[:, whose], probability, section)
        return tuple(new.to(old.dtype) for new, old in zip(augmented, images, strict=True))

    def encode(self, inputs: Inputs) -> Tensor:
        return self.gan.networks.generator.encoder(inputs, self.batch.z)

    def encode_both(self) -> tuple[Tensor, Tensor]:
        """Both conditions by one pass."""
        joined = concatenate(self.batch.condition, self.batch.mismatched)
        like = torch.cat([self.batch.z, self.batch.z])
        embedding, mismatched = self.gan.networks.generator.encoder(joined, like).chunk(2)
        return embedding, mismatched

    def draw(self, embedding: Tensor) -> Drawing:
        batch, phase = self.batch, self.phase
        with self.gan.precision.autocast():
            fakes, mean, log_variance = self.gan.networks.generator(
                embedding, batch.noise, batch.z, batch.dropout_keys, phase.resolution, phase.alpha
            )
        return Drawing(fakes, at_least_float32(mean), at_least_float32(log_variance))

    def judge(self, images: Images, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's features of images, and their scores with a condition, [N], at least in float32."""
        discriminator, phase = self.gan.networks.discriminator, self.phase
        with self.gan.precision.autocast():
            features = discriminator.features(images, phase.resolution, phase.alpha)
            return features, at_least_float32(discriminator.logits(features, embedding))

    def suspect(self, **rows: Tensor) -> None:
        """Note by name which rows of [N] or [N, ...] hold what is not finite."""
        for name, values in rows.items():
            finite = values.detach().isfinite()
            found = ~(finite.flatten(1).all(dim=1) if finite.dim() > 1 else finite)
            self.suspects[name] = self.suspects[name] | found if name in self.suspects else found

    def score(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Features that are there already, with another condition. -> [N]"""
        with self.gan.precision.autocast():
            return at_least_float32(self.gan.networks.discriminator.logits(features, embedding))
