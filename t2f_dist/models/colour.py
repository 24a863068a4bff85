"""Affine changes of colour: matrices [N, 4, 4] that act on (red, green, blue, 1) of every pixel, in float64.

Unlike moves, they act on what is there: the first change stands rightmost in a product. The luma axis is (1, 1, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2f_dist.models.affine import matrix, unmoved


def brightness(added: Tensor) -> Tensor:
    """`added` [N] to every channel."""
    return matrix(added, [[1, 0, 0, added], [0, 1, 0, added], [0, 0, 1, added], [0, 0, 0, 1]])


def contrast(factor: Tensor) -> Tensor:
    """About 0, the middle grey, by `factor` [N]."""
    return matrix(factor, [[factor, 0, 0, 0], [0, factor, 0, 0], [0, 0, factor, 0], [0, 0, 0, 1]])


def luma_flip(flipped: Tensor) -> Tensor:
    """The mean of the channels changes its sign where `flipped` [N] is 1, not 0; hue and saturation stay."""
    return _about_luma(1 - 2 * flipped / 3, -2 * flipped / 3, -2 * flipped / 3)


def hue(radians: Tensor) -> Tensor:
    """Turned about the luma axis [N]: by a third of a turn, red becomes green, green blue, and blue red."""
    cos, sin = radians.cos(), radians.sin() / 3**0.5
    rest = (1 - cos) / 3
    return _about_luma(cos + rest, rest - sin, rest + sin)


def saturation(factor: Tensor) -> Tensor:
    """The distance from the luma axis, times `factor` [N]: 0 gives greys."""
    rest = (1 - factor) / 3
    return _about_luma(factor + rest, rest, rest)


def _about_luma(own: Tensor, following: Tensor, last: Tensor) -> Tensor:
    """Circulant: a channel takes `own` of itself and `following` and `last` of the next two in turn."""
    rows = [[own, following, last, 0], [last, own, following, 0], [following, last, own, 0], [0, 0, 0, 1]]
    return matrix(own, rows)


def recoloured(image: Tensor, changes: Tensor) -> Tensor:
    """[N, 3, R, R] float32 or float64, matrices [N, 4, 4] -> [N, 3, R, R]; an identity gives the image bit by bit."""
    entry = changes.to(image.dtype)[:, :, :, None, None]
    red, green, blue = image.unbind(dim=1)
    channels = [
        entry[:, c, 0] * red + entry[:, c, 1] * green + entry[:, c, 2] * blue + entry[:, c, 3] for c in range(3)
    ]
    return torch.where(unmoved(changes), image, torch.stack(channels, dim=1))


def contrast_about_mean(image: Tensor, factor: Tensor) -> Tensor:
    """[N, 3, R, R], [N]: about the mean of each image's own pixels and channels."""
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return mean + factor.to(image.dtype).view(-1, 1, 1, 1) * (image - mean)
