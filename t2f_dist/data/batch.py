"""What a training step gets: samples of consecutive positions, and the noise that belongs to those positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from t2f_dist.data.noise import Noise
from t2f_dist.data.order import Place

Inputs = dict[str, tuple[Tensor, Tensor]]
"""Modality -> values, padded with 0 to the longest, and the length of each sample's, int64 [N]; 0: it has none."""


class Damage(NamedTuple):
    """A sample that could not be read, and was replaced."""

    position: int
    shard: str
    row: int
    reason: str


class Item(NamedTuple):
    """One position."""

    position: int
    image: np.ndarray  # uint8 [3, R, R]
    condition: Mapping[str, np.ndarray]
    mismatched: Mapping[str, np.ndarray]
    mismatched_image: np.ndarray  # uint8 [3, R, R], or empty
    mismatched_identity: int  # uint64, whose these are; its own where neither is wanted
    identity: int  # uint64
    identity_class: int  # its number in the training split, -1 where it has none
    damage: tuple[Damage, ...]
    place: Place = Place(-1, -1)  # where it is read from
    mismatched_place: Place = Place(-1, -1)  # and what is mismatched; its own where nothing is


@dataclass
class Batch:
    """N consecutive positions: a rank's share of a global batch, or a part of it."""

    positions: Tensor  # int64 [N]
    images: Tensor  # uint8 [N, 3, R, R]
    condition: Inputs
    mismatched: Inputs  # of another identity, without what this position does without
    mismatched_images: Tensor  # uint8 [N, 3, R, R], or [N, 3, 0, 0] where no step looks at them
    identities: Tensor  # int64 [N], the bits of the index's uint64
    mismatched_identities: Tensor  # int64 [N]
    identity_classes: Tensor  # int64 [N], -1: none
    z: Tensor  # float64 [N, Z] unit normal
    noise: Tensor  # float64 [N, S] unit normal, of the conditioning
    mixing: Tensor  # float64 [N] uniform in [0, 1)
    dropout_keys: Tensor  # int64 [N]
    augment: Tensor  # float32 [N, 3, K] uniform in [0, 1): for reals, for fakes, for the fakes of the generator's step
    places: Tensor  # int64 [N, 2], shard and row: see `Samples.name_of`
    mismatched_places: Tensor  # int64 [N, 2]
    damage: tuple[Damage, ...] = ()

    def __len__(self) -> int:
        return len(self.positions)

    def _each(self, change: Callable[[Tensor], Tensor], change_lengths: Callable[[Tensor], Tensor]) -> Batch:
        def changed(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, dict):
                return {name: (change(values), change_lengths(lengths)) for name, (values, lengths) in value.items()}
            return value

        return Batch(**{field.name: changed(getattr(self, field.name)) for field in fields(self)})

    def pin_memory(self) -> Batch:
        return self._each(Tensor.pin_memory, Tensor.pin_memory)

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Tensors on `device`, noise in `dtype`; lengths stay where packing needs them."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() else None, non_blocking=True)

        return self._each(move, lambda lengths: lengths)

    def split(self, num_parts: int) -> list[Batch]:
        """Equal parts of consecutive positions, in order."""
        assert len(self) % num_parts == 0
        size = len(self) // num_parts
        starts = range(0, len(self), size)
        cuts: list[Callable[[Tensor], Tensor]] = [lambda value, s=start: value[s : s + size] for start in starts]
        return [self._each(cut, cut) for cut in cuts]


def collate(items: Sequence[Item], noise: Noise) -> Batch:
    """N items of one resolution, in the order of their positions, and their noise -> a batch of N, on the CPU."""
    return Batch(
        positions=torch.tensor([item.position for item in items]),
        images=_images([item.image for item in items]),
        condition=collate_condition([item.condition for item in items]),
        mismatched=collate_condition([item.mismatched for item in items]),
        mismatched_images=_images([item.mismatched_image for item in items]),
        identities=_bits([item.identity for item in items]),
        mismatched_identities=_bits([item.mismatched_identity for item in items]),
        identity_classes=torch.tensor([item.identity_class for item in items]),
        z=torch.from_numpy(noise.z),
        noise=torch.from_numpy(noise.noise),
        mixing=torch.from_numpy(noise.mixing),
        dropout_keys=torch.from_numpy(noise.dropout_keys),
        augment=torch.from_numpy(noise.augment),
        places=torch.tensor([item.place for item in items]),
        mismatched_places=torch.tensor([item.mismatched_place for item in items]),
        damage=tuple(damage for item in items for damage in item.damage),
    )


def collate_condition(conditions: Sequence[Mapping[str, np.ndarray]]) -> Inputs:
    """N conditions of the same modalities -> their values, padded together, and lengths."""
    return {name: _pad([condition[name] for condition in conditions]) for name in conditions[0]}


def _bits(identities: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.array(identities, dtype=np.uint64).view(np.int64))


def _images(images: Sequence[np.ndarray]) -> Tensor:
    planes = np.empty((len(images), *images[0].shape), np.uint8)  # not np.stack, which keeps the pixels' order
    for row, image in enumerate(images):
        planes[row] = image
    return torch.from_numpy(planes)


def _pad(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), max(1, lengths.max()), *rows[0].shape[1:]), dtype=rows[0].dtype)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(padded), torch.from_numpy(lengths)
