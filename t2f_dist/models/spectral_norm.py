"""Layers whose weight is divided by its spectral norm (Miyato et al. 2018, 1802.05957).

sigma = u^T W v, where u and v approach the first singular vectors of the weight W as a matrix [out, rest] by power
iteration (algorithm 1). They are buffers and constants to the gradient, which flows through W in sigma (equation 12).
They change only in `iterate`, which the trainer calls once a step: so neither the number of forwards nor what a rank
saw of the batch has a part in the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FIRST_ITERATIONS = 15  # at the start, where u is random


class SpectralNorm(nn.Module):
    """What the layers below share; it stands before a torch layer among their bases, and that layer has the weight.

    The weight keeps that layer's own initialisation: its scale has no part in what comes out.
    """

    weight: Tensor
    u: Tensor  # [out], unit length
    v: Tensor  # [rest], unit length

    def __init__(self, *args: Any, **options: Any):
        """With what the torch layer takes."""
        super().__init__(*args, **options)
        out, rest = self._matrix().shape
        self.register_buffer("u", F.normalize(torch.randn(out), dim=0))
        self.register_buffer("v", torch.zeros(rest))
        for _ in range(FIRST_ITERATIONS):
            self.iterate()

    def _matrix(self) -> Tensor:
        """The weight as [out, rest]."""
        return self.weight.flatten(1)

    @torch.no_grad()
    def iterate(self) -> None:
        """One power iteration. Every rank must call it at the same place of a step."""
        matrix = self._matrix()
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def sigma(self) -> Tensor:
        """The weight's spectral norm, a scalar, as far as the iterations have come."""
        with torch.autocast(self.weight.device.type, enabled=False):  # a product in bf16 has two digits
            return self.u @ (self._matrix() @ self.v)

    def normalized_weight(self) -> Tensor:
        return self.weight / self.sigma()


class SpectralLinear(SpectralNorm, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:  # [N, F] -> [N, F']
        return F.linear(x, self.normalized_weight(), self.bias)


class SpectralConv2d(SpectralNorm, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C', H', W']
        return F.conv2d(x, self.normalized_weight(), self.bias, self.stride, self.padding)


class SpectralConvTranspose2d(SpectralNorm, nn.ConvTranspose2d):
    def _matrix(self) -> Tensor:
        return self.weight.transpose(0, 1).flatten(1)  # such a weight has its input channels first

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C', H', W']
        assert isinstance(self.padding, tuple)
        return F.conv_transpose2d(x, self.normalized_weight(), self.bias, self.stride, self.padding)
