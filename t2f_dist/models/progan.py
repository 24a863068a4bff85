"""The progressive generator and discriminator (1710.10196), conditional as in T2F.

Every block of every resolution exists from the start. `resolution` and `alpha` say how far a forward goes and how far
the newest block is faded in; `active(resolution, fading)` names the layers that such a forward uses, which is what
optimizers and gradient exchange follow.

Shapes: N images, C channels, R resolution in pixels, E embedding, L latent (condition and z).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from t2f_dist.config import networks
from t2f_dist.config.networks import RESOLUTIONS
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.heads import Critic
from t2f_dist.models.layers import (
    EqualizedConv2d,
    EqualizedLinear,
    Images,
    at_least_float32,
    downsample,
    leaky,
    pixel_norm,
    upsample,
)


def _linear(x: Tensor) -> Tensor:
    return x


class GeneratorStem(nn.Module):
    """Latent -> 4x4: a full linear map to pixels, then a convolution, normalised once."""

    def __init__(self, latent_size: int, channels: int):
        super().__init__()
        self.channels = channels
        self.linear = EqualizedLinear(latent_size, channels * 16, gain=2**0.5)
        self.conv = EqualizedConv2d(channels, channels, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:  # [N, L] -> [N, C, 4, 4]
        x = leaky(self.linear(latent).view(-1, self.channels, 4, 4))
        return pixel_norm(leaky(self.conv(x)))


class GeneratorBlock(nn.Module):
    """Upsample, then convolutions, each normalised. [N, C, R, R] -> [N, C', 2R, 2R]"""

    def __init__(self, in_channels: int, out_channels: int, num_convs: int):
        super().__init__()
        widths = [in_channels] + [out_channels] * num_convs
        self.convs = nn.ModuleList(EqualizedConv2d(a, b, 3, padding=1) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        x = upsample(x)
        for conv in self.convs:
            x = pixel_norm(leaky(conv(x)))
        return x


class Generator(nn.Module):
    """Latent -> image in about [-1, 1]; the last layer is linear, as in 1710.10196."""

    def __init__(self, config: networks.Progan, condition_size: int, batch_norm: BatchNorm):
        super().__init__()
        del batch_norm  # pixel normalisation in its place
        channels = config.channels
        self.normalize_latent = config.normalize_latent
        self.stem = GeneratorStem(condition_size + config.z_size, channels[0])
        self.blocks = nn.ModuleDict(
            {
                str(resolution): GeneratorBlock(a, b, config.convs_per_block)
                for resolution, (a, b) in zip(RESOLUTIONS[1:], pairwise(channels), strict=False)
            }
        )
        self.to_rgb = nn.ModuleDict(
            {str(r): EqualizedConv2d(c, 3, 1, gain=1.0) for r, c in zip(RESOLUTIONS, channels, strict=False)}
        )

    def active(self, resolution: int, fading: bool) -> list[nn.Module]:
        blocks = [self.blocks[str(r)] for r in RESOLUTIONS if 4 < r <= resolution]
        old = [self.to_rgb[str(resolution // 2)]] if fading else []
        return [self.stem, *blocks, self.to_rgb[str(resolution)], *old]

    def forward(self, condition: Tensor, z: Tensor, resolution: int, alpha: float, dropout_key: Tensor) -> Images:
        """condition [N, S], z [N, Z], alpha in [0, 1] (1: the newest block alone) -> one of [N, 3, R, R]."""
        del dropout_key
        latent = torch.cat([condition, z], dim=1)
        x = before = self.stem(pixel_norm(latent) if self.normalize_latent else latent)
        for r in RESOLUTIONS[1 : RESOLUTIONS.index(resolution) + 1]:
            before, x = x, self.blocks[str(r)](x)
        image = at_least_float32(self.to_rgb[str(resolution)](x))
        if alpha >= 1 or resolution == 4:
            return (image,)
        old = upsample(at_least_float32(self.to_rgb[str(resolution // 2)](before)))
        return (old + alpha * (image - old),)


class DiscriminatorBlock(nn.Module):
    """Convolutions, the last one to the next width, then half the size. [N, C, R, R] -> [N, C', R/2, R/2]

    `pool` averages after the last convolution, as in 1710.10196. `stride` lets the last convolution, 4x4 at stride 2,
    do it: less than half the work, and what is a few pixels small is not averaged away before it is seen.
    """

    def __init__(self, in_channels: int, out_channels: int, num_convs: int, halving: str):
        super().__init__()
        widths = [in_channels] * num_convs + [out_channels]
        self.convs = nn.ModuleList(EqualizedConv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.pool = halving == "pool"
        if not self.pool:
            self.convs[-1] = EqualizedConv2d(widths[-2], widths[-1], 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = leaky(conv(x))
        return downsample(x) if self.pool else x


class Discriminator(Critic):
    """Image -> features, once; features and any embedding -> logit, cheaply (for matched and mismatched conditions)."""

    def __init__(self, config: networks.ProganCritic, embedding_size: int, batch_norm: BatchNorm):
        super().__init__()
        del batch_norm  # none in a critic that may be penalised
        channels = config.channels
        self.activate_rgb = leaky if config.from_rgb_activation else _linear
        self.from_rgb = nn.ModuleDict(
            {str(r): EqualizedConv2d(3, c, 1, gain=1.0) for r, c in zip(RESOLUTIONS, channels, strict=False)}
        )
        self.blocks = nn.ModuleDict(
            {
                str(resolution): DiscriminatorBlock(b, a, config.convs_per_block, config.halving)
                for resolution, (a, b) in zip(RESOLUTIONS[1:], pairwise(channels), strict=False)
            }
        )
        self._end(config, embedding_size)

    def active(self, resolution: int, fading: bool) -> list[nn.Module]:
        blocks = [self.blocks[str(r)] for r in RESOLUTIONS if 4 < r <= resolution]
        old = [self.from_rgb[str(resolution // 2)]] if fading else []
        return [self.from_rgb[str(resolution)], *old, *blocks, self.final, self.head]

    def views(self, images: Tensor) -> Images:
        """[N, 3, R, R] -> what is judged of a real image: itself."""
        return (images,)

    def features(self, images: Images, resolution: int, alpha: float) -> Tensor:
        """One of [N, 3, R, R] -> [N, C, 4, 4] (concat head) or [N, C]; N a multiple of the stddev group."""
        (image,) = images
        x = self.activate_rgb(self.from_rgb[str(resolution)](image))
        for r in reversed(RESOLUTIONS[1 : RESOLUTIONS.index(resolution) + 1]):
            x = self.blocks[str(r)](x)
            if r == resolution and alpha < 1:
                old = self.activate_rgb(self.from_rgb[str(resolution // 2)](downsample(image)))
                x = old + alpha * (x - old)
        return self._judged(x)
