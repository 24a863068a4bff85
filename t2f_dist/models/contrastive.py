"""Image and condition features in one space, for the contrastive term (XMC-GAN, 2101.04702, section 4)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from t2f_dist.config import loss
from t2f_dist.models.layers import EqualizedLinear, at_least_float32

# A vector shorter than this is not made a unit vector: at 0 its direction would have an unbounded derivative.
SHORTEST = 1e-2


class ContrastiveHead(nn.Module):
    """Two linear maps onto the unit sphere of `size` dimensions. [N, ...], [N, E] -> [N, S], [N, S]"""

    def __init__(self, config: loss.Contrastive, feature_size: int, embedding_size: int):
        super().__init__()
        self.image = EqualizedLinear(feature_size, config.size)
        self.condition = EqualizedLinear(embedding_size, config.size)

    def images(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=(2, 3)) if features.dim() == 4 else features
        return F.normalize(at_least_float32(self.image(pooled)), dim=1, eps=SHORTEST)

    def conditions(self, embedding: Tensor) -> Tensor:
        return F.normalize(at_least_float32(self.condition(embedding)), dim=1, eps=SHORTEST)
