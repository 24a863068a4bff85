"""What the discriminator sees of a small corpus: images, real and fake, each moved and recoloured at random.

`ada`: adaptive discriminator augmentation (Karras et al. 2020, 2006.06676, appendix B). Each transform is done with a
probability that the training adapts; below 1 it cannot leak into what the generator draws. `diffaugment`:
differentiable augmentation (Zhao et al. 2020, 2006.10738), all of it, always.

The first derivative with respect to the images is what a generator learns by. There need be no second one (and torch
has none for the sampling of images): a gradient penalty is taken at the augmented images, which are what the
discriminator judges, by detaching them first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from t2f_dist.config.loss import AUGMENT_DRAWS, Ada, DiffAugment
from t2f_dist.models import affine, colour
from t2f_dist.models.cutout import cut
from t2f_dist.models.layers import Images, at_least_float32

# The transforms of ADA, in the order of the paper. Each has three draws: its gate, and two for what it does.
_ADA = (
    *("flip", "turn", "shift"),
    *("scale", "rotation_before", "stretch", "rotation_after", "fraction"),
    *("brightness", "contrast", "luma_flip", "hue", "saturation"),
)
NUM_DRAWS = 3 * len(_ADA)
assert NUM_DRAWS == AUGMENT_DRAWS, "as many as are drawn for each image"
_TINIEST = 2.0**-25  # below any draw but 0 that a float32 holds: keeps normal numbers within 5.5 deviations


def augment(images: Images, draws: Tensor, probability: float | Tensor, section: Ada | DiffAugment) -> Images:
    """The same transform of a sample at all of its resolutions, decided by its draws alone.

    images: [N, 3, R, R] each, R a power of two, in about [-1, 1]; the largest, whose pixels count, is the last. They
    come back in float32, or in float64 where they were. draws: uniform numbers in [0, 1), [N, NUM_DRAWS].
    probability: in [0, 1], of each transform of `ada`; where nothing happens to a sample, it comes back bit by bit.
    `diffaugment` does not read it.
    """
    assert draws.shape == (len(images[0]), NUM_DRAWS), f"draws of shape {tuple(draws.shape)}"
    with torch.autocast(images[0].device.type, enabled=False):
        images = tuple(at_least_float32(image) for image in images)
        if isinstance(section, DiffAugment):
            return _diffaugment(images, draws.double(), section)
        if not isinstance(probability, Tensor) and probability == 0:
            return images
        return _ada(images, _Gated(draws, probability), section)


class _Gated:
    """The draws of ADA by name; where the gate of a transform stays shut, its `neutral` parameter."""

    def __init__(self, draws: Tensor, probability: float | Tensor):
        self.draws = dict(zip(_ADA, draws.double().view(-1, len(_ADA), 3).unbind(dim=1), strict=True))
        self.probability = probability

    def choice(self, name: str, num: int) -> Tensor:
        """0, 1, ..., num - 1; neutral 0."""
        return self._open(name, (self.draws[name][:, 1] * num).floor(), 0)

    def uniform(self, name: str, bound: float, draw: int = 1) -> Tensor:
        """In [-bound, bound); neutral 0."""
        return self._open(name, (2 * self.draws[name][:, draw] - 1) * bound, 0)

    def normal(self, name: str, deviation: float, draw: int = 1) -> Tensor:
        """About 0; neutral 0."""
        return self._open(name, self._normal(name, draw) * deviation, 0)

    def factor(self, name: str, deviation: float) -> Tensor:
        """2 to a normal number of so many octaves; neutral 1."""
        return self._open(name, torch.exp2(self._normal(name, 1) * deviation), 1)

    def angle(self, name: str) -> Tensor:
        """Any, where one of two rotations is done: both together are, with the probability of one transform."""
        either = 1 - (1 - self.probability) ** 0.5
        return self._open(name, (2 * self.draws[name][:, 1] - 1) * math.pi, 0, either)

    def _normal(self, name: str, draw: int) -> Tensor:
        return torch.special.ndtri(self.draws[name][:, draw].clamp(_TINIEST, 1 - _TINIEST))

    def _open(self, name: str, value: Tensor, neutral: float, probability: float | Tensor | None = None) -> Tensor:
        gate = self.draws[name][:, 0] < (self.probability if probability is None else probability)
        return torch.where(gate, value, neutral)


def _ada(images: Images, gated: _Gated, section: Ada) -> Images:
    moves = []
    if "blit" in section.transforms:
        moves += _blit(gated, images[-1].shape[-1])
    if "geometry" in section.transforms:
        moves += _geometry(gated)
    if moves:
        move, shrinks = affine.product(moves), "geometry" in section.transforms
        images = tuple(affine.moved(image, move, "reflection", antialias=shrinks) for image in images)
    if "colour" in section.transforms:
        change = affine.product(_colours(gated)[::-1])
        images = tuple(colour.recoloured(image, change) for image in images)
    return images


def _blit(gated: _Gated, size: int) -> list[Tensor]:
    """What only moves pixels: whole ones of the largest image, `size` pixels wide."""
    shift = [(gated.uniform("shift", 0.125, draw) * size).round() / size for draw in (1, 2)]
    return [affine.flip(gated.choice("flip", 2)), affine.turn(gated.choice("turn", 4)), affine.translation(*shift)]


def _geometry(gated: _Gated) -> list[Tensor]:
    scale, stretch = gated.factor("scale", 0.2), gated.factor("stretch", 0.2)
    return [
        affine.scaling(scale, scale),
        affine.rotation(gated.angle("rotation_before")),
        affine.scaling(stretch, 1 / stretch),
        affine.rotation(gated.angle("rotation_after")),
        affine.translation(gated.normal("fraction", 0.125, 1), gated.normal("fraction", 0.125, 2)),
    ]


def _colours(gated: _Gated) -> list[Tensor]:
    return [
        colour.brightness(gated.normal("brightness", 0.2)),
        colour.contrast(gated.factor("contrast", 0.5)),
        colour.luma_flip(gated.choice("luma_flip", 2)),
        colour.hue(gated.uniform("hue", math.pi)),
        colour.saturation(gated.factor("saturation", 1.0)),
    ]


def _diffaugment(images: Images, draws: Tensor, section: DiffAugment) -> Images:
    bright, saturated, contrasted, x, y, left, top = draws[:, :7].unbind(dim=1)
    size = images[-1].shape[-1]
    if "colour" in section.transforms:
        change = affine.product([colour.saturation(2 * saturated), colour.brightness(bright - 0.5)])
        images = tuple(
            colour.contrast_about_mean(colour.recoloured(image, change), contrasted + 0.5) for image in images
        )
    if "translation" in section.transforms:
        most = math.floor(size / 8 + 0.5)  # pixels
        shift = [((draw * (2 * most + 1)).floor() - most) / size for draw in (x, y)]
        move = affine.translation(*shift)
        images = tuple(affine.moved(image, move, "zeros", antialias=False) for image in images)
    if "cutout" in section.transforms:
        corner = [(draw * (size + 1)).floor() / size - 0.25 for draw in (left, top)]  # the square's centre is within
        images = tuple(cut(image, *corner, size=0.5) for image in images)
    return images
