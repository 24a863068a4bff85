"""An identity -> one unit of many."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from t2f_dist.config.condition import OneHot
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.facts import Facts


class OneHotEncoder(nn.Module):
    """The number of an identity as one unit of many: nothing here is trained.

    Raises ValueError where the shards have no identities.
    """

    def __init__(self, section: OneHot, facts: Facts, batch_norm: BatchNorm):
        super().__init__()
        if not facts.num_identities:
            raise ValueError(
                "condition.identity needs identities, and the shards have none: build them from a source that names"
                " who is seen, or set condition.identity to null"
            )
        self.output_size = facts.num_identities

    def forward(self, classes: Tensor, lengths: Tensor) -> Tensor:
        """classes int64 [N, 1], lengths int64 [N] (0 or 1) -> [N, E]; a row of length 0 is of class 0.

        A class outside 0 to E - 1 is an error of the one who built the batch (on a GPU, one of the device).
        """
        present = lengths.to(classes.device) > 0
        return F.one_hot(classes[:, 0].where(present, 0), self.output_size)
