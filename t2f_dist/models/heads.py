"""The discriminator's last layers: features at 4x4 and the condition's embedding -> a score.

Shapes: N images, C channels, E embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2f_dist.config.networks import MsgganCritic, ProganCritic
from t2f_dist.models.layers import EqualizedConv2d, EqualizedLinear, leaky, minibatch_stddev


class ConcatHead(nn.Module):
    """T2F's final block: the compressed embedding is tiled over 4x4 and joined to the image's features."""

    def __init__(self, channels: int, embedding_size: int, head_size: int):
        super().__init__()
        self.feature_size = channels
        self.compress = EqualizedLinear(embedding_size, head_size)
        self.join = EqualizedConv2d(channels + head_size, channels, 1)
        self.conv = EqualizedConv2d(channels, channels, 4)
        self.out = EqualizedLinear(channels, 1)

    def features(self, x: Tensor) -> Tensor:  # [N, C, 4, 4] -> [N, C, 4, 4]
        return x

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        tiled = self.compress(embedding)[:, :, None, None].expand(-1, -1, 4, 4)
        x = leaky(self.join(torch.cat([features, tiled.to(features.dtype)], dim=1)))
        return self.out(leaky(self.conv(x)).flatten(1)).squeeze(1)


class ProjectionHead(nn.Module):
    """Score plus inner product of image and embedding (Miyato & Koyama 2018, 1802.05637, equation 3)."""

    def __init__(self, channels: int, embedding_size: int, head_size: int):
        super().__init__()
        self.feature_size = channels
        self.scale = head_size**-0.5
        self.conv = EqualizedConv2d(channels, channels, 4)
        self.out = EqualizedLinear(channels, 1)
        self.image = EqualizedLinear(channels, head_size)
        self.embedding = EqualizedLinear(embedding_size, head_size)

    def features(self, x: Tensor) -> Tensor:  # [N, C, 4, 4] -> [N, C]
        return leaky(self.conv(x)).flatten(1)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        match = (self.image(features) * self.embedding(embedding)).sum(dim=1) * self.scale
        return self.out(features).squeeze(1) + match


class UnconditionalHead(nn.Module):
    """A score of the image alone (1710.10196, table 2). The embedding has no width."""

    def __init__(self, channels: int, embedding_size: int, head_size: int):
        super().__init__()
        assert embedding_size == 0
        del head_size
        self.feature_size = channels
        self.conv = EqualizedConv2d(channels, channels, 4)
        self.out = EqualizedLinear(channels, 1)

    def features(self, x: Tensor) -> Tensor:  # [N, C, 4, 4] -> [N, C]
        return leaky(self.conv(x)).flatten(1)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        del embedding
        return self.out(features).squeeze(1)


HEADS = {"concat": ConcatHead, "projection": ProjectionHead, "unconditional": UnconditionalHead}


class Critic(nn.Module):
    """How discriminators of equalised layers end: at 4x4, the statistic over a group, a convolution, and a head."""

    def _end(self, section: ProganCritic | MsgganCritic, embedding_size: int) -> None:
        channels = section.channels[0]
        self.stddev_group_size = section.stddev_group_size
        self.final = EqualizedConv2d(channels + 1, channels, 3, padding=1)
        self.head = HEADS[section.head](channels, embedding_size, section.head_size)

    @property
    def feature_size(self) -> int:
        return self.head.feature_size

    def _judged(self, x: Tensor) -> Tensor:
        """[N, C, 4, 4] -> what the head makes of it; N a multiple of the group."""
        return self.head.features(leaky(self.final(minibatch_stddev(x, self.stddev_group_size))))

    def logits(self, features: Tensor, embedding: Tensor) -> Tensor:
        """[N, ...], [N, E] -> [N], unbounded."""
        return self.head(features, embedding)
