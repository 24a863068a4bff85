"""Conditions of earlier steps, which images are told apart from.

As in MoCo (He et al. 2020, 1911.05722, section 3.1), but for its slow second encoder: an entry is as old as the queue
is long, so that a few steps are better than many.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConditionQueue(nn.Module):
    """The newest `size` unit vectors and whose they are. The same on all ranks, if all push the same global batches."""

    vectors: Tensor  # [Q, S]
    identities: Tensor  # int64 [Q]
    counts: Tensor  # bool [Q]: filled, by a sample that has a condition
    num_pushed: Tensor  # int64, since the beginning

    def __init__(self, size: int, vector_size: int):
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, vector_size))
        self.register_buffer("identities", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("num_pushed", torch.zeros((), dtype=torch.int64))

    def rivals(self, identities: Tensor) -> Tensor:
        """identities [N] -> bool [N, Q]: which entries count, and are of another identity."""
        return self.counts & (identities[:, None] != self.identities)

    def push(self, vectors: Tensor, identities: Tensor, present: Tensor, bad: Tensor | None = None) -> None:
        """[N, S], [N], bool [N] in the place of the oldest; of more than the queue holds, the last.

        bad: bool, the queue stays as it is.
        """
        size = len(self.identities)
        count = torch.full_like(self.num_pushed, len(vectors))
        numbers = self.num_pushed + torch.arange(len(vectors), device=vectors.device)
        places = numbers[-size:] % size
        new = {"vectors": vectors.detach().to(self.vectors), "identities": identities, "counts": present}
        for name, rows in new.items():
            kept, rows = getattr(self, name), rows[-size:]
            if bad is not None:
                rows = torch.where(bad, kept[places], rows)
            kept[places] = rows
        self.num_pushed += count if bad is None else count.masked_fill(bad, 0)
