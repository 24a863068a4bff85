"""Items become a batch: padded, with lengths, and kept whole through cuts and moves."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from t2f_dist.data.batch import Batch, Damage, Item, collate, collate_condition
from t2f_dist.data.noise import Noise


def item(position: int, **changes) -> Item:
    """Tokens as many as its position; no voice at even ones; a stored vector; an identity beyond int64."""
    condition = {
        "caption": np.arange(1, position + 1),
        "speech": np.full((position % 2) * 10 * position, position, np.int16),
        "stored": np.full((1, 3), position, np.float32)[: position % 3],
    }
    values = {
        "position": position,
        "image": np.full((3, 4, 4), position, np.uint8),
        "condition": condition,
        "mismatched": {name: value[:1] for name, value in condition.items()},
        "mismatched_image": np.zeros((3, 0, 0), np.uint8),
        "mismatched_identity": 2**63 + position,
        "identity": 2**64 - 1 - position,
        "identity_class": position - 1,
        "damage": (Damage(position, "shard", 0, "torn"),) if position == 3 else (),
    }
    return Item(**values | changes)


def noise(num: int) -> Noise:
    positions = np.arange(num)
    return Noise(
        z=np.repeat(positions[:, None] / 8, 2, axis=1),
        noise=np.zeros((num, 0)),
        mixing=positions / 16,
        dropout_keys=2**63 - 1 - positions,
        augment=np.broadcast_to(positions[:, None, None] / 16, (num, 3, 2)).astype(np.float32),
    )


@pytest.fixture
def batch() -> Batch:
    return collate([item(position) for position in range(6)], noise(6))


def test_rows_are_their_samples_and_zero_past_their_ends(batch: Batch):
    assert len(batch) == 6
    for name, width, dtype in (("caption", 5, torch.int64), ("speech", 50, torch.int16), ("stored", 1, torch.float32)):
        values, lengths = batch.condition[name]
        assert values.shape[:2] == (6, width) and values.dtype == dtype
        assert lengths.dtype == torch.int64
        for position, (row, length) in enumerate(zip(values, lengths.tolist(), strict=True)):
            original = item(position).condition[name]
            assert length == len(original)
            assert np.array_equal(row[:length].numpy(), original)
            assert not row[length:].any()
    assert batch.images.shape == (6, 3, 4, 4) and batch.images.is_contiguous()
    assert batch.images[:, 0, 0, 0].tolist() == list(range(6))
    assert batch.mismatched_images.shape == (6, 3, 0, 0)
    assert batch.identities.numpy().view(np.uint64).tolist() == [2**64 - 1 - position for position in range(6)]
    assert batch.mismatched_identities.numpy().view(np.uint64).tolist() == [2**63 + position for position in range(6)]
    assert batch.identity_classes.tolist() == [-1, 0, 1, 2, 3, 4]
    assert batch.dropout_keys.tolist() == [2**63 - 1 - position for position in range(6)]
    assert batch.damage == (Damage(3, "shard", 0, "torn"),)
    assert batch.noise.shape == (6, 0)
    assert batch.augment.shape == (6, 3, 2) and batch.augment.dtype == torch.float32


def test_a_modality_that_nobody_has_is_one_wide_and_of_length_zero():
    missing = {"caption": np.zeros(0, np.int64), "stored": np.zeros((0, 3), np.float32)}
    for name, (values, lengths) in collate_condition([missing, missing]).items():
        assert values.shape == ((2, 1) if name == "caption" else (2, 1, 3))
        assert not values.any() and lengths.tolist() == [0, 0]
    nothing = collate([item(position, condition={}, mismatched={}) for position in range(2)], noise(2))
    assert nothing.condition == nothing.mismatched == {}


def leaves(batch: Batch) -> dict[str, torch.Tensor]:
    found = {}
    for field in fields(Batch):
        value = getattr(batch, field.name)
        if isinstance(value, dict):
            for name, (values, lengths) in value.items():
                found |= {f"{field.name}.{name}": values, f"{field.name}.{name}.length": lengths}
        elif isinstance(value, torch.Tensor):
            found[field.name] = value
    return found


@pytest.mark.parametrize("num_parts", [1, 2, 3, 6])
def test_parts_are_the_batch_in_order(batch: Batch, num_parts: int):
    parts = [leaves(part) for part in batch.split(num_parts)]
    whole = leaves(batch)
    assert len(parts) == num_parts
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value), name
    with pytest.raises(AssertionError):
        batch.split(4)


def test_a_move_changes_the_numbers_that_are_real_and_leaves_lengths_on_the_cpu(batch: Batch):
    moved = leaves(batch.to(torch.device("meta"), torch.float32))
    for name, value in leaves(batch).items():
        assert moved[name].shape == value.shape
        assert moved[name].device.type == ("cpu" if name.endswith(".length") else "meta"), name
        assert moved[name].dtype == (torch.float32 if value.is_floating_point() else value.dtype), name


@pytest.mark.gpu
def test_pinned_it_is_the_same_batch(batch: Batch):
    pinned = leaves(batch.pin_memory())
    for name, value in leaves(batch).items():
        assert torch.equal(pinned[name], value)
        assert pinned[name].is_pinned() or not value.numel(), name
