"""The terms that the networks minimise, and the augmentation of what the discriminator sees."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from t2f_dist.config.load import Section
from t2f_dist.config.numbers import Fraction, NonNegativeFloat, NonNegativeInt


class Adversarial(Section):
    """See losses/adversarial.py for each."""

    kind: Literal[
        "non_saturating",
        "wgan",
        "least_squares",
        "hinge",
        "relativistic_average_hinge",
        "relativistic_pairing",
    ] = "non_saturating"
    real_label: Annotated[float, Field(gt=0.5, le=1)] = 1.0  # below 1: one-sided label smoothing (1606.03498)
    group_size: PositiveInt = 8  # consecutive positions over which a relativistic average is taken


class Matching(Section):
    """An image that is real, but not of this condition, counts as fake (GAN-CLS, 1605.05396, algorithm 1)."""

    weight: NonNegativeFloat = 1.0
    mismatched: Literal["condition", "image"] = "condition"  # which of the two belongs to another identity
    interpolation_weight: NonNegativeFloat = 0.0  # GAN-INT: the generator also draws between two conditions


class Penalty(Section):
    """Gradient penalty on the discriminator; `every_images` makes it lazy, its weight then grows to match."""

    kind: Literal["r1", "r2", "wgan_gp"] = "r1"
    weight: PositiveFloat = 0.5  # gamma of R1 (1801.04406, equation 9), lambda of WGAN-GP (1704.00028, equation 3)
    every_images: PositiveInt = 1  # 1 = each step


class Contrastive(Section):
    """InfoNCE between image and condition features (XMC-GAN, 2101.04702) within groups of consecutive positions."""

    discriminator_weight: NonNegativeFloat = 0.0  # on reals
    generator_weight: NonNegativeFloat = 0.0  # on fakes
    size: PositiveInt = 64
    temperature: PositiveFloat = 0.1
    group_size: Annotated[int, Field(ge=2)] = 16
    hard_negatives: bool = True  # each image also meets the mismatched conditions of its group
    queue_size: NonNegativeInt = 0  # each image also meets so many conditions of earlier steps

    @property
    def used(self) -> bool:
        return self.discriminator_weight > 0 or self.generator_weight > 0


class FeatureMatching(Section):
    """Mean features of fakes are drawn to those of reals (1606.03498, section 3.1), within groups of positions."""

    weight: NonNegativeFloat = 0.0
    group_size: PositiveInt = 16


class Identity(Section):
    """Cross-entropy over the identities of the training split."""

    condition_weight: NonNegativeFloat = 0.0  # read from the condition's embedding (wav2pix)
    image_weight: NonNegativeFloat = (
        0.0  # read from the image, of reals by the discriminator, of fakes for the generator
    )

    @property
    def used(self) -> bool:
        return self.condition_weight > 0 or self.image_weight > 0


class Loss(Section):
    adversarial: Adversarial = Adversarial()
    matching: Matching = Matching()
    penalties: tuple[Penalty, ...] = ()
    drift_weight: NonNegativeFloat = 0.0
    weight_clip: PositiveFloat | None = None  # the discriminator's weights are cut to +-this after each step (WGAN)
    contrastive: Contrastive = Contrastive()
    feature_matching: FeatureMatching = FeatureMatching()
    l1_weight: NonNegativeFloat = 0.0  # between a fake and the real image of its condition
    identity: Identity = Identity()

    @property
    def group_sizes(self) -> dict[str, int]:
        """Option -> consecutive positions that a term compares with each other."""
        sizes = {}
        if self.contrastive.used:
            sizes["contrastive.group_size"] = self.contrastive.group_size
        if self.feature_matching.weight:
            sizes["feature_matching.group_size"] = self.feature_matching.group_size
        if self.adversarial.kind == "relativistic_average_hinge":
            sizes["adversarial.group_size"] = self.adversarial.group_size
        return sizes


AUGMENT_DRAWS = 39
"""Uniform numbers that decide how one image is augmented, in either way."""


class Ada(Section):
    """Adaptive discriminator augmentation (Karras et al. 2020, 2006.06676): as much as keeps overfitting at bay."""

    kind: Literal["ada"] = "ada"
    transforms: Annotated[tuple[Literal["blit", "geometry", "colour"], ...], Field(min_length=1)] = (
        "blit",
        "geometry",
        "colour",
    )
    # Of the mean sign of the discriminator's scores of reals. Lower where it also sees mismatched pairs, which count as
    # fake and pull the scores of reals down.
    target: Annotated[float, Field(ge=-1, le=1)] = 0.6
    initial_probability: Fraction = 0.0
    max_probability: Fraction = 0.9
    images_to_one: PositiveInt = 500_000  # images in which the probability can rise from 0 to 1
    every_images: PositiveInt = 256  # between adjustments


class DiffAugment(Section):
    """Differentiable augmentation of each image (Zhao et al. 2020, 2006.10738)."""

    kind: Literal["diffaugment"] = "diffaugment"
    transforms: Annotated[tuple[Literal["colour", "translation", "cutout"], ...], Field(min_length=1)] = (
        "colour",
        "translation",
        "cutout",
    )
