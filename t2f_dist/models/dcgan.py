"""The DCGAN (Radford et al. 2016, 1511.06434), conditional as in GAN-CLS (Reed et al. 2016, 1605.05396, figure 2).

With spectral normalisation and dropout in place of batch normalisation these are the networks of wav2pix (1903.10195).
They do not grow: `resolution` and `alpha` of a forward must be the whole resolution and 1.

Convolutions begin as N(0, 0.02), save those that are divided by their spectral norm. A network with batch
normalisation has no biases beside those of its normalisations.

Shapes: N images, C channels, R resolution in pixels, E embedding, S condition, Z noise.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from t2f_dist.config.networks import Dcgan, DcganCritic
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.batch_norm import GroupBatchNorm
from t2f_dist.models.dropout import PositionDropout
from t2f_dist.models.layers import SLOPE, Images, at_least_float32, leaky
from t2f_dist.models.minibatch_discrimination import MinibatchDiscrimination
from t2f_dist.models.spectral_norm import SpectralConv2d, SpectralConvTranspose2d, SpectralLinear, SpectralNorm


def _norm(used: bool, channels: int, batch_norm: BatchNorm) -> nn.Module:
    return GroupBatchNorm(channels, batch_norm.group_size, batch_norm.momentum) if used else nn.Identity()


def _draw_weights(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not isinstance(layer, SpectralNorm):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class GeneratorBlock(nn.Module):
    """Transposed convolution, normalisation, dropout, rectifier."""

    def __init__(self, conv: nn.Module, norm: nn.Module, dropout: PositionDropout):
        super().__init__()
        self.conv, self.norm, self.dropout = conv, norm, dropout

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        return torch.relu(self.dropout(self.norm(self.conv(x)), key))


class Generator(nn.Module):
    """Latent -> image in (-1, 1). channels[0] are those at 4x4; the last block is of half the image's resolution."""

    def __init__(self, section: Dcgan, condition_size: int, batch_norm: BatchNorm):
        super().__init__()
        assert condition_size + section.z_size > 0, "a generator needs a condition or noise"
        self.resolution = section.resolution
        conv = SpectralConvTranspose2d if section.spectral_norm else nn.ConvTranspose2d
        bias = not section.batch_norm
        widths = [condition_size + section.z_size, *section.channels]
        self.blocks = nn.ModuleList(
            GeneratorBlock(
                conv(a, b, 4, 2 if number else 1, 1 if number else 0, bias=bias),
                _norm(section.batch_norm, b, batch_norm),
                PositionDropout(section.dropout, section.dropout_of, number),
            )
            for number, (a, b) in enumerate(pairwise(widths))
        )
        self.to_rgb = conv(widths[-1], 3, 4, 2, 1, bias=bias)
        _draw_weights(self)

    def active(self, resolution: int, fading: bool) -> list[nn.Module]:
        assert resolution == self.resolution and not fading, f"resolution {resolution} of {self.resolution}"
        return [*self.blocks, self.to_rgb]

    def forward(self, condition: Tensor, z: Tensor, resolution: int, alpha: float, dropout_key: Tensor) -> Images:
        """condition [N, S], z [N, Z], dropout_key int64 [N] -> one [N, 3, R, R], float32 at least."""
        assert resolution == self.resolution and alpha == 1, f"resolution {resolution}, alpha {alpha}"
        x = torch.cat([condition, z], dim=1)[:, :, None, None]
        for block in self.blocks:
            x = block(x, dropout_key)
        return (at_least_float32(self.to_rgb(x)).tanh(),)


class Discriminator(nn.Module):
    """Image -> features, once; features and any embedding -> logit. channels[0] are those at 4x4.

    At 4x4 the image's features are joined by what is the same in every pixel: the embedding (compressed, or as it is)
    and, with minibatch discrimination, how close the image is to the others of its group. A convolution of 4x4 scores.
    """

    def __init__(self, section: DcganCritic, embedding_size: int, batch_norm: BatchNorm):
        super().__init__()
        self.resolution, self.feature_size = section.resolution, section.channels[0]
        conv = SpectralConv2d if section.spectral_norm else nn.Conv2d
        bias = not section.batch_norm
        widths = [3, *reversed(section.channels)]
        self.convs = nn.ModuleList(conv(a, b, 4, 2, 1, bias=bias) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(
            _norm(section.batch_norm and number > 0, width, batch_norm) for number, width in enumerate(widths[1:])
        )
        self.conditional = section.head == "concat"
        self.compress: nn.Module = nn.Identity()
        joined = self.feature_size
        if self.conditional and section.head_size is None:
            joined += embedding_size
        elif self.conditional and section.head_size is not None:
            joined += section.head_size
            linear = SpectralLinear if section.spectral_norm else nn.Linear
            self.compress = nn.Sequential(
                linear(embedding_size, section.head_size, bias=bias),
                _norm(section.batch_norm, section.head_size, batch_norm),
                nn.LeakyReLU(SLOPE),
            )
        self.crowd: MinibatchDiscrimination | None = None
        if section.minibatch_discrimination is not None:
            self.crowd = MinibatchDiscrimination(section.minibatch_discrimination, 16 * self.feature_size)
            joined += section.minibatch_discrimination.num_kernels
        self.score = conv(joined, 1, 4, bias=bias)
        _draw_weights(self)

    def active(self, resolution: int, fading: bool) -> list[nn.Module]:
        assert resolution == self.resolution and not fading, f"resolution {resolution} of {self.resolution}"
        return list(self.children())

    def views(self, images: Tensor) -> Images:
        return (images,)

    def features(self, images: Images, resolution: int, alpha: float) -> Tensor:
        """One [N, 3, R, R] -> [N, C, 4, 4]: what the last convolution finds, rectified."""
        assert resolution == self.resolution and alpha == 1, f"resolution {resolution}, alpha {alpha}"
        (x,) = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = leaky(norm(conv(x)))
        return x

    def logits(self, features: Tensor, embedding: Tensor) -> Tensor:
        """[N, C, 4, 4], [N, E] -> [N], unbounded. N a multiple of the groups of minibatch discrimination."""
        joined = [self.compress(embedding)] if self.conditional else []
        if self.crowd is not None:
            joined.append(self.crowd(features.flatten(1)))
        tiled = [part.to(features.dtype)[:, :, None, None].expand(-1, -1, 4, 4) for part in joined]
        return self.score(torch.cat([features, *tiled], dim=1)).flatten()
