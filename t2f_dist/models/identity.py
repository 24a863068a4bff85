"""Whose face or voice it is: a classifier over the identities of the training split."""

from __future__ import annotations

from torch import Tensor, nn

from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.batch_norm import GroupBatchNorm
from t2f_dist.models.layers import at_least_float32, leaky

HIDDEN = 200


class IdentityHead(nn.Module):
    """Two linear layers, as on wav2pix's speech embedding (1903.10195, section 3), without its norm of the logits.

    [N, F(, 4, 4)] -> logits [N, K]
    """

    def __init__(self, feature_size: int, num_identities: int, batch_norm: BatchNorm):
        super().__init__()
        if num_identities < 2:
            raise ValueError(f"loss.identity tells {num_identities} identities apart: use shards with at least 2, or 0")
        self.hidden = nn.Linear(feature_size, HIDDEN, bias=False)
        self.norm = GroupBatchNorm(HIDDEN, batch_norm.group_size, batch_norm.momentum)
        self.out = nn.Linear(HIDDEN, num_identities)

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=(2, 3)) if features.dim() == 4 else features
        return at_least_float32(self.out(leaky(self.norm(self.hidden(pooled)))))
