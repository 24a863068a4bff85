"""The layers of progressive GANs (Karras et al. 2018, "Progressive Growing of GANs", 1710.10196).

Shapes: N images, C channels, H and W pixels, F features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Images = tuple[Tensor, ...]
"""[N, 3, r, r] for each resolution that a network draws or judges at once, the smallest first."""

SLOPE = 0.2  # of every leaky rectifier


class EqualizedConv2d(nn.Conv2d):
    """Convolution whose weight is N(0, 1) and scaled by gain / sqrt(fan in) at run time (section 4.1)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        gain: float = 2**0.5,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self.scale = gain / math.sqrt(in_channels * kernel_size**2)
        nn.init.normal_(self.weight)
        nn.init.zeros_(_bias(self))

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C', H', W']
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)


class EqualizedLinear(nn.Linear):
    """Linear layer with the run-time scale of EqualizedConv2d."""

    def __init__(self, in_features: int, out_features: int, *, gain: float = 1.0):
        super().__init__(in_features, out_features)
        self.scale = gain / math.sqrt(in_features)
        nn.init.normal_(self.weight)
        nn.init.zeros_(_bias(self))

    def forward(self, x: Tensor) -> Tensor:  # [N, F] -> [N, F']
        return F.linear(x, self.weight * self.scale, self.bias)


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def at_least_float32(x: Tensor) -> Tensor:
    """Statistics are taken in float32 where activations are bf16 or fp16; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pixel_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """Each pixel's feature vector scaled to unit mean square (section 4.2). [N, C, ...] -> [N, C, ...]

    The mean square is taken in float32: in fp16, `eps` would be zero and squares would overflow.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide)
    return x * torch.rsqrt(norm.square() / x.shape[1] + eps).to(x.dtype)


def minibatch_stddev(x: Tensor, group_size: int, eps: float = 1e-8) -> Tensor:
    """`x` with one more channel: the mean standard deviation over its group (section 3). [N, C, H, W] -> [N, C+1, H, W]

    Groups are `group_size` consecutive images, so the statistic is the same however a global batch is shared out.
    N must be a multiple of `group_size`.
    """
    num, channels, height, width = x.shape
    assert num % group_size == 0, f"{num} images cut a group of {group_size}"
    groups = at_least_float32(x).reshape(num // group_size, group_size, channels, height, width)
    variance = (groups - groups.mean(dim=1, keepdim=True)).square().mean(dim=1)  # torch.var is slow over dim 1
    stddev = (variance + eps).sqrt().mean(dim=(1, 2, 3))  # [groups]
    extra = stddev.repeat_interleave(group_size).to(x.dtype).view(num, 1, 1, 1).expand(num, 1, height, width)
    return torch.cat([x, extra], dim=1)


def upsample(x: Tensor) -> Tensor:
    """Nearest neighbour, twice the height and width."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def downsample(x: Tensor) -> Tensor:
    """Box filter, half the height and width."""
    return F.avg_pool2d(x, 2)
