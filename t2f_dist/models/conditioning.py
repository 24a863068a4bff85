"""From the embedding of a condition to what the generator is given.

Shapes: N samples, E embedding, S condition. Each module takes the embedding [N, E] and unit noise ([N, S] for the
augmentation; the others do not look at it) and returns the condition, its mean and its log variance, [N, S] each. Where
there is no Gaussian, the mean is the condition and the log variance zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2f_dist.config import condition
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.batch_norm import GroupBatchNorm
from t2f_dist.models.layers import EqualizedLinear, leaky


class ConditioningAugmentation(nn.Module):
    """The embedding becomes a Gaussian, and the condition is drawn from it, which fills the gaps between the few
    captions of a corpus (Zhang et al. 2017, StackGAN, 1612.03242, section 3.2).

    The layer's second half is the log variance, as in StackGAN. T2F rectifies it into a standard deviation, whose
    units die at zero and are then charged by the KL term for ever.
    """

    def __init__(self, section: condition.Augmentation, embedding_size: int, batch_norm: BatchNorm):
        super().__init__()
        del batch_norm
        self.size = section.size
        self.layer = EqualizedLinear(embedding_size, 2 * section.size)

    def forward(self, embedding: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.layer(embedding).chunk(2, dim=1)
        return mean + (0.5 * log_variance).exp() * noise, mean, log_variance


class Projection(nn.Module):
    """A linear layer, batch normalisation over groups, a leaky rectifier (Reed et al. 2016, 1605.05396, section 4.1).

    In training N must be a multiple of the normalisation's group.
    """

    def __init__(self, section: condition.Projection, embedding_size: int, batch_norm: BatchNorm):
        super().__init__()
        self.size = section.size
        self.layer = nn.Linear(embedding_size, section.size, bias=False)
        self.norm = GroupBatchNorm(section.size, batch_norm.group_size, batch_norm.momentum)

    def forward(self, embedding: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        del noise
        projected = leaky(self.norm(self.layer(embedding)))
        return projected, projected, torch.zeros_like(projected)


class Direct(nn.Module):
    """The embedding as it is."""

    def __init__(self, section: condition.Direct, embedding_size: int, batch_norm: BatchNorm):
        super().__init__()
        del section, batch_norm
        self.size = embedding_size

    def forward(self, embedding: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        del noise
        return embedding, embedding, torch.zeros_like(embedding)


CONDITIONINGS: dict[type, type[nn.Module]] = {
    condition.Augmentation: ConditioningAugmentation,
    condition.Projection: Projection,
    condition.Direct: Direct,
}
