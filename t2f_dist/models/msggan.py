"""MSG-GAN (Karnewar & Wang 2020, 1903.06048), conditional as in T2F: images of every resolution, judged together.

The blocks are those of the progressive networks; nothing grows, since the gradient reaches every resolution at once.
`resolution` and `alpha` of a forward must be the whole resolution and 1.

Shapes: N images, C channels, R resolution in pixels, E embedding, S condition, Z noise. Images are a tuple of
[N, 3, r, r] for r = 4, 8, ..., R.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from t2f_dist.config.networks import Msggan, MsgganCritic
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.heads import Critic
from t2f_dist.models.layers import (
    EqualizedConv2d,
    Images,
    at_least_float32,
    downsample,
    pixel_norm,
)
from t2f_dist.models.progan import DiscriminatorBlock, GeneratorBlock, GeneratorStem

NUM_CONVS = 2  # a block


class Generator(nn.Module):
    """Latent -> images in about [-1, 1], smallest first; each is drawn by a linear 1x1 convolution of its block."""

    def __init__(self, section: Msggan, condition_size: int, batch_norm: BatchNorm):
        super().__init__()
        del batch_norm  # pixel normalisation in its place
        channels = section.channels
        self.resolution, self.normalize_latent = section.resolution, section.normalize_latent
        self.stem = GeneratorStem(condition_size + section.z_size, channels[0])
        self.blocks = nn.ModuleList(GeneratorBlock(a, b, NUM_CONVS) for a, b in pairwise(channels))
        self.to_rgb = nn.ModuleList(EqualizedConv2d(c, 3, 1, gain=1.0) for c in channels)

    def active(self, resolution: int, fading: bool) -> list[nn.Module]:
        assert resolution == self.resolution and not fading, f"resolution {resolution} of {self.resolution}"
        return [self.stem, *self.blocks, *self.to_rgb]

    def forward(self, condition: Tensor, z: Tensor, resolution: int, alpha: float, dropout_key: Tensor) -> Images:
        """condition [N, S], z [N, Z] -> [N, 3, r, r] for r = 4 ... R, float32 at least."""
        assert resolution == self.resolution and alpha == 1, f"resolution {resolution}, alpha {alpha}"
        del dropout_key
        latent = torch.cat([condition, z], dim=1)
        x = self.stem(pixel_norm(latent) if self.normalize_latent else latent)
        images = [self.to_rgb[0](x)]
        for block, to_rgb in zip(self.blocks, self.to_rgb[1:], strict=True):
            x = block(x)
            images.append(to_rgb(x))
        return tuple(at_least_float32(image) for image in images)


class Discriminator(Critic):
    """Images -> features, once; features and any embedding -> logit, by a head of the progressive discriminator.

    The input of each resolution's block is, one half each, what the block above passes on and what a linear 1x1
    convolution finds in the image of that resolution; at the largest, the image alone. The minibatch standard
    deviation joins at 4x4.
    """

    def __init__(self, section: MsgganCritic, embedding_size: int, batch_norm: BatchNorm):
        super().__init__()
        del batch_norm  # none in a critic that may be penalised
        channels = section.channels
        self.resolution = section.resolution
        seen = [c // 2 for c in channels[:-1]] + [channels[-1]]  # channels of a block's input that are of the image
        self.from_rgb = nn.ModuleList(EqualizedConv2d(3, c, 1, gain=1.0) for c in seen)
        self.blocks = nn.ModuleList(  # of 8 pixels, 16, ...
            DiscriminatorBlock(b, a - of_image, NUM_CONVS, "pool")
            for (a, b), of_image in zip(pairwise(channels), seen, strict=False)
        )
        self._end(section, embedding_size)

    def active(self, resolution: int, fading: bool) -> list[nn.Module]:
        assert resolution == self.resolution and not fading, f"resolution {resolution} of {self.resolution}"
        return [*self.from_rgb, *self.blocks, self.final, self.head]

    def views(self, images: Tensor) -> Images:
        """[N, 3, R, R] -> [N, 3, r, r] for r = 4 ... R, each box-filtered to half the next."""
        pyramid = [images]
        while pyramid[-1].shape[-1] > 4:
            pyramid.append(downsample(pyramid[-1]))
        return tuple(reversed(pyramid))

    def features(self, images: Images, resolution: int, alpha: float) -> Tensor:
        """[N, 3, r, r] for r = 4 ... R -> what the head makes of them; N a multiple of the stddev group."""
        assert resolution == self.resolution and alpha == 1, f"resolution {resolution}, alpha {alpha}"
        *seen, x = [from_rgb(image) for from_rgb, image in zip(self.from_rgb, images, strict=True)]
        for block, of_image in zip(reversed(self.blocks), reversed(seen), strict=True):
            x = torch.cat([of_image, block(x)], dim=1)
        return self._judged(x)
