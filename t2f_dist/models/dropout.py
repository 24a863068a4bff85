"""Dropout whose mask is a function of the sample, not of a generator's state (Srivastava et al. 2014).

Every element's fate is a hash of (the sample's key, the layer's number, the element's index): the same whatever else
the sample is batched with, on any rank, and when a drawing is repeated. The hash is the one that numbers splitmix64
(Steele et al. 2014, "Fast splittable pseudorandom number generators"): integer operations alone, so a CPU and a GPU
find the same bits.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


GOLDEN = _signed(0x9E3779B97F4A7C15)  # 2^64 by the golden ratio, odd: the step from index to index
MULTIPLIERS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)
BITS = 53  # of the 64, compared with the share


def _shift(x: Tensor, places: int) -> Tensor:
    """To the right, filled with zeros: torch's own shift repeats the sign."""
    return (x >> places) & (2 ** (64 - places) - 1)


def _scramble(x: Tensor) -> Tensor:
    """int64 -> int64, one to one; products wrap."""
    x = (x ^ _shift(x, 30)) * MULTIPLIERS[0]
    x = (x ^ _shift(x, 27)) * MULTIPLIERS[1]
    return x ^ _shift(x, 31)


class PositionDropout(nn.Module):
    """A share `p` in [0, 1] of each sample's channels (or of all its elements) is 0; the rest is scaled by 1 / (1 - p).

    `layer` is a number that no other dropout of the network has. In evaluation nothing is changed.
    """

    def __init__(self, p: float, of: Literal["channels", "elements"], layer: int):
        super().__init__()
        assert 0 <= p <= 1, f"p {p}"
        self.p, self.of, self.layer = p, of, layer

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        """x [N, C, ...] of any floating dtype, key int64 [N], a number of each sample -> like x."""
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return torch.zeros_like(x)
        keep = self._keep(key, x.shape[1:] if self.of == "elements" else (x.shape[1], *[1] * (x.dim() - 2)))
        return torch.where(keep, x / (1 - self.p), 0)

    def _keep(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        """bool [N, *shape]"""
        index = torch.arange(1, 1 + torch.Size(shape).numel(), device=key.device) * GOLDEN
        start = _scramble(_scramble(key) + _signed(self.layer * GOLDEN))
        hashed = _scramble(start[:, None] + index)
        return (_shift(hashed, 64 - BITS) < round((1 - self.p) * 2**BITS)).view(len(key), *shape)

    def extra_repr(self) -> str:
        return f"p={self.p}, of={self.of}, layer={self.layer}"
