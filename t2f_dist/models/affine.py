"""Affine moves: matrices a sample, their composition, and images sampled by them.

A place in an image is (x, y, 1): x to the right, y down, in units of the image's size, from its centre; so one matrix
moves every resolution alike. A matrix of a move maps a place of the moved image to the place of the original that it
shows: moves that are done one after the other are multiplied from left to right.

Shapes: N images. Matrices are float64: exact where the move is one of whole pixels, and never of reduced precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def matrix(like: Tensor, rows: Sequence[Sequence[float | Tensor]]) -> Tensor:
    """Numbers, or [N] each, row by row -> [N, rows, columns]; `like` [N] lends dtype, device and N."""
    entries = [[e if isinstance(e, Tensor) else torch.full_like(like, e) for e in row] for row in rows]
    return torch.stack([torch.stack(row, dim=1) for row in entries], dim=1)


def product(matrices: Sequence[Tensor]) -> Tensor:
    """Of [N, K, K], from left to right. Sums of elements, so that a sample's result never depends on N."""
    return reduce(lambda a, b: (a[:, :, :, None] * b[:, None, :, :]).sum(dim=2), matrices)


def flip(flipped: Tensor) -> Tensor:
    """Left becomes right where `flipped` [N] is 1, not 0."""
    return matrix(flipped, [[1 - 2 * flipped, 0, 0], [0, 1, 0], [0, 0, 1]])


def turn(quarters: Tensor) -> Tensor:
    """Counter-clockwise by 0, 1, 2 or 3 times 90 degrees [N], exactly."""
    cos = (quarters == 0).to(quarters) - (quarters == 2).to(quarters)
    sin = (quarters == 1).to(quarters) - (quarters == 3).to(quarters)
    return matrix(quarters, [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def rotation(radians: Tensor) -> Tensor:
    """Counter-clockwise by `radians` [N]."""
    cos, sin = radians.cos(), radians.sin()
    return matrix(radians, [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def translation(x: Tensor, y: Tensor) -> Tensor:
    """To the right by `x` and down by `y` [N], in units of the image's size."""
    return matrix(x, [[1, 0, -x], [0, 1, -y], [0, 0, 1]])


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """Wider by `x` and higher by `y` [N], about the centre."""
    return matrix(x, [[1 / x, 0, 0], [0, 1 / y, 0], [0, 0, 1]])


def unmoved(moves: Tensor) -> Tensor:
    """[N, K, K] -> bool [N, 1, 1, 1]: which are exactly the identity."""
    eye = torch.eye(moves.shape[1], dtype=moves.dtype, device=moves.device)
    return (moves == eye).all(dim=2).all(dim=1).view(-1, 1, 1, 1)


def moved(image: Tensor, moves: Tensor, padding: Literal["reflection", "zeros"], antialias: bool = True) -> Tensor:
    """[N, 3, R, R] float32 or float64, matrices [N, 3, 3] -> [N, 3, R, R], bilinear.

    Where the matrix is the identity, the image comes back bit by bit; flips, quarter turns and shifts by whole pixels
    only move pixels, since at resolutions that are powers of two their coordinates are exact. What lies outside is
    mirrored at the border, or 0.

    With `antialias`, an image that shrinks by f is the mean of four samples that are (f - 1) / f of a new pixel apart:
    at f = 2 that is the box filter, and at f = 1 and below the four are one.
    """
    places = moves[:, :2].to(image.dtype)
    centres = _centres(image)
    apart = _shrinking(moves).to(image) / (2 * image.shape[-1])  # [N, 1, 1]
    signs = [(-1, -1), (1, -1), (-1, 1), (1, 1)] if antialias else [(0, 0)]
    samples = []
    for sign_x, sign_y in signs:
        x, y = centres[None, None, :] + sign_x * apart, centres[None, :, None] + sign_y * apart
        place = [_entry(places, row, 0) * x + _entry(places, row, 1) * y + _entry(places, row, 2) for row in (0, 1)]
        grid = 2 * torch.stack(place, dim=-1)
        samples.append(F.grid_sample(image, grid, mode="bilinear", padding_mode=padding, align_corners=False))
    return torch.where(unmoved(moves), image, reduce(torch.add, samples) / len(samples))


def _entry(matrices: Tensor, row: int, column: int) -> Tensor:
    return matrices[:, row, column].view(-1, 1, 1)


def _centres(image: Tensor) -> Tensor:
    """Of the pixels of a row or column, in units of the image's size, from the middle."""
    size = image.shape[-1]
    return (torch.arange(size, dtype=image.dtype, device=image.device) + 0.5) / size - 0.5


def _shrinking(moves: Tensor) -> Tensor:
    """1 - 1 / f, at least 0 [N, 1, 1]: f is the larger singular value, in old pixels a new one."""
    a, b, c, d = (moves[:, row, column].view(-1, 1, 1) for row in (0, 1) for column in (0, 1))
    larger = (torch.hypot(a + d, b - c) + torch.hypot(a - d, b + c)) / 2
    return (1 - 1 / larger).clamp(min=0)
