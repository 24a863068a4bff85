"""What needs no learning to be an embedding: a vector that stands in the shards, and the number of an identity.

Shapes: N samples, D numbers of a stored embedding, E embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2f_dist.config.condition import OneHot, Stored
from t2f_dist.config.schema import BatchNorm

if TYPE_CHECKING:
    from t2f_dist.models.condition import Facts


class StoredEncoder(nn.Module):
    """The embedding of a caption as a pretrained model gave it: nothing here is trained.

    Raises ValueError where the shards have no caption embeddings.
    """

    def __init__(self, section: Stored, facts: Facts, batch_norm: BatchNorm):
        super().__init__()
        if not facts.embedding_size:
            raise ValueError(
                "condition.caption.kind stored needs caption embeddings, and the shards have none: build them with"
                " `t2f-dist shard --embed MODEL_DIR`, or use kind lstm"
            )
        self.output_size = facts.embedding_size

    def forward(self, embeddings: Tensor, lengths: Tensor) -> Tensor:
        """embeddings [N, 1, D], lengths int64 [N] (0 or 1) -> [N, D], each scaled to a mean square of 1.

        A sentence encoder's are unit vectors: beside other modalities, whose units are about 1, they would be unheard.
        """
        rows = embeddings[:, 0]
        return rows * torch.rsqrt(rows.square().mean(dim=1, keepdim=True) + 1e-12)


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
