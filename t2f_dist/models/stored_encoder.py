"""An embedding that stands in the shards already.

Shapes: N samples, D numbers of a stored embedding, E embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2f_dist.config.condition import Stored
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.facts import Facts


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
