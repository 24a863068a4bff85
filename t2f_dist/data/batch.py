"""What a training step gets: samples of consecutive positions, and the noise that belongs to those positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Damage(NamedTuple):
    """A sample that could not be read, and was replaced."""

    position: int
    shard: str
    row: int
    reason: str


class Item(NamedTuple):
    """One position."""

    position: int
    image: np.ndarray  # uint8 [R, R, 3]
    tokens: list[int]
    mismatched_tokens: list[int]
    z: np.ndarray  # float64 [Z]
    condition_noise: np.ndarray  # float64 [S]
    mixing: float
    damage: tuple[Damage, ...]


@dataclass
class Batch:
    """N consecutive positions: a rank's share of a global batch, or a part of it.

    Captions are padded with 0 to the longest of the share; `*_lengths` say where each ends.
    """

    positions: Tensor  # int64 [N]
    images: Tensor  # uint8 [N, 3, R, R]
    tokens: Tensor  # int64 [N, T]
    lengths: Tensor  # int64 [N], stays on the CPU
    mismatched_tokens: Tensor  # int64 [N, T']
    mismatched_lengths: Tensor  # int64 [N], stays on the CPU
    z: Tensor  # float64 [N, Z] unit normal
    condition_noise: Tensor  # float64 [N, S] unit normal
    mixing: Tensor  # float64 [N] uniform in [0, 1)
    damage: tuple[Damage, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    def _each(self, change) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{k: change(k, v) if isinstance(v, Tensor) else v for k, v in values.items()})

    def pin_memory(self) -> Batch:
        return self._each(lambda _, value: value.pin_memory())

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Tensors on `device`, noise in `dtype`; lengths stay where packing needs them."""

        def move(name: str, value: Tensor) -> Tensor:
            if name.endswith("lengths"):
                return value
            return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)

        return self._each(move)

    def split(self, num_parts: int) -> list[Batch]:
        """Equal parts of consecutive positions, in order."""
        assert len(self) % num_parts == 0
        size = len(self) // num_parts
        return [
            self._each(lambda _, value, start=start: value[start : start + size]) for start in range(0, len(self), size)
        ]


def collate(items: Sequence[Item]) -> Batch:
    """N items of one resolution, in the order of their positions -> a batch of N, on the CPU."""
    tokens, lengths = _pad([item.tokens for item in items])
    mismatched_tokens, mismatched_lengths = _pad([item.mismatched_tokens for item in items])
    images = torch.from_numpy(np.stack([item.image for item in items]))
    return Batch(
        positions=torch.tensor([item.position for item in items]),
        images=images.permute(0, 3, 1, 2).contiguous(),
        tokens=tokens,
        lengths=lengths,
        mismatched_tokens=mismatched_tokens,
        mismatched_lengths=mismatched_lengths,
        z=torch.from_numpy(np.stack([item.z for item in items])),
        condition_noise=torch.from_numpy(np.stack([item.condition_noise for item in items])),
        mixing=torch.tensor([item.mixing for item in items], dtype=torch.float64),
        damage=tuple(damage for item in items for damage in item.damage),
    )


def _pad(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    lengths = np.array([len(sequence) for sequence in sequences])
    padded = np.zeros((len(sequences), lengths.max()), dtype=np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return torch.from_numpy(padded), torch.from_numpy(lengths)
