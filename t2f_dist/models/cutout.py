"""A square of an image made grey (DeVries & Taylor 2017, 1708.04552), at the same place in every resolution."""

from __future__ import annotations

import torch
from torch import Tensor


def cut(image: Tensor, left: Tensor, top: Tensor, size: float) -> Tensor:
    """[N, 3, R, R] with 0 from (left, top) [N], over `size`, all in units of the image's size from its upper left.

    The square may reach over the border. A pixel that it covers in part, as those of smaller resolutions are, is
    dimmed by that part.
    """
    covered = _covered(image, top, size)[:, None, :, None] * _covered(image, left, size)[:, None, None, :]
    return image * (1 - covered)


def _covered(image: Tensor, start: Tensor, size: float) -> Tensor:
    """[N, R]: the share of each pixel of a row that lies between start [N] and start + size."""
    num = image.shape[-1]
    edges = torch.arange(num, dtype=start.dtype, device=start.device)[None]
    first, last = start[:, None] * num, (start[:, None] + size) * num
    overlap = torch.minimum(edges + 1, last) - torch.maximum(edges, first)
    return overlap.clamp(0, 1).to(image.dtype)
