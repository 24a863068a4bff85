"""Tensors as the bytes of a file: those that safetensors itself would write."""

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.training.checkpoints import packed
from t2f_dist.training.checkpoints.packed import Packed

SHAPES = st.lists(st.integers(0, 4), max_size=3)


def filled(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 100, shape, generator=generator).to(dtype)


@given(st.dictionaries(st.text(), st.tuples(st.sampled_from(list(packed._TYPES)), SHAPES), max_size=6))
def test_the_bytes_are_those_of_safetensors(layout):
    one = Packed()
    for seed in (0, 1):
        tensors = {name: filled(what[0], what[1], seed) for name, what in layout.items() if name != "__metadata__"}
        one.fill(tensors)
        assert bytes(one.content) == safetensors.torch.save(tensors)


def test_any_memory_layout_comes_in_rows():
    image = torch.arange(120.0).view(2, 3, 4, 5)
    tensors = {
        "last": image.to(memory_format=torch.channels_last),
        "turned": image.transpose(0, 3),
        "strided": image[:, ::2],
        "expanded": image[:1, :1].expand(2, 3, 4, 5),
    }
    one = Packed()
    one.fill(tensors)
    read = safetensors.torch.load(bytes(one.content))
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_the_memory_stays_until_a_shape_changes():
    one = Packed()
    one.fill({"a": torch.zeros(1000)})
    place = one._bytes.data_ptr()
    one.fill({"a": torch.ones(1000)})
    assert one._bytes.data_ptr() == place
    one.fill({"a": torch.ones(10, 100), "b": torch.zeros(3, dtype=torch.int64)})
    assert bytes(one.content) == safetensors.torch.save(
        {"a": torch.ones(10, 100), "b": torch.zeros(3, dtype=torch.int64)}
    )


def test_a_type_without_a_name_is_no_silent_loss():
    with pytest.raises(KeyError):
        Packed().fill({"a": torch.zeros(3, dtype=torch.complex128)})
