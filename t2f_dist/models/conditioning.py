"""Conditioning augmentation (Zhang et al. 2017, StackGAN, 1612.03242, section 3.2).

The embedding of a caption becomes a Gaussian, and the generator's condition is drawn from it, which fills the gaps
between the few captions of a corpus.
"""

from __future__ import annotations

from torch import Tensor, nn

from t2f_dist.config import schema
from t2f_dist.models.layers import EqualizedLinear


class ConditioningAugmentation(nn.Module):
    """Embedding [N, E] and unit noise [N, S] -> condition [N, S], mean [N, S], log variance [N, S].

    The layer's second half is the log variance, as in StackGAN. T2F rectifies it into a standard deviation, whose
    units die at zero and are then charged by the KL term for ever.
    """

    def __init__(self, config: schema.Conditioning, embedding_size: int):
        super().__init__()
        self.layer = EqualizedLinear(embedding_size, 2 * config.size)

    def forward(self, embedding: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.layer(embedding).chunk(2, dim=1)
        return mean + (0.5 * log_variance).exp() * noise, mean, log_variance
