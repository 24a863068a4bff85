"""A bit that differs between ranks, anywhere in what a step changes, is found and named."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.training import fingerprint
from t2f_dist.training.fingerprint import RanksDiffer
from t2f_dist.training.growth import Growth
from t2f_dist.training.launch.ranks import Ranks
from tests.ranks import Pair
from tests.training.short_run import state, trained
from tests.training.small import config

DTYPES = {torch.float32: 32, torch.float64: 64, torch.int64: 64, torch.bool: 1}


def _bits(tensor):
    return fingerprint._bits(tensor)


@given(
    st.sampled_from(list(DTYPES)),
    st.sampled_from([(), (1,), (7,), (3, 5), (2, 3, 4, 5)]),
    st.integers(0, 2**31),
    st.integers(0, 63),
)
def test_a_flipped_bit_gives_another_digest(dtype, shape, number, bit):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(number)).to(dtype)
    flipped = tensor.clone()
    bits = _bits(flipped)
    bits[number % len(bits)] ^= 1 << bit % DTYPES[dtype] if bit % DTYPES[dtype] < 63 else -(2**63)
    assert int(fingerprint._digest(tensor)) == int(fingerprint._digest(tensor.clone()))
    assert int(fingerprint._digest(tensor)) != int(fingerprint._digest(flipped))


@given(st.integers(0, 199), st.integers(0, 199), st.integers(1, 70))
def test_swapped_elements_give_another_digest_also_across_chunks(one, other, chunk):
    tensor = torch.randn(200, generator=torch.Generator().manual_seed(0))
    swapped = tensor.clone()
    swapped[[one, other]] = tensor[[other, one]]
    before, fingerprint.CHUNK["cpu"] = fingerprint.CHUNK["cpu"], chunk
    try:
        same = int(fingerprint._digest(tensor)) == int(fingerprint._digest(swapped))
    finally:
        fingerprint.CHUNK["cpu"] = before
    assert same == (one == other)


def test_a_zero_and_a_negative_zero_are_not_the_same_but_a_nan_is_itself():
    zero, nan = torch.zeros(3), torch.full((3,), torch.nan)
    assert int(fingerprint._digest(zero)) != int(fingerprint._digest(-zero))
    assert int(fingerprint._digest(nan)) == int(fingerprint._digest(nan.clone()))


def _flip(tensor):
    bits = _bits(tensor)
    bits[len(bits) // 2] ^= 1
    return lambda: bits[len(bits) // 2].bitwise_xor_(1)


ONE_OF_EACH = {
    "both": ("networks.discriminator.", "generator_ema.", "networks.queue.num_pushed", "networks.queue.counts",
             "augment.probability", "/exp_avg", "/exp_avg_sq", "/step"),
    "wav2pix": (".running_var", ".u", ".weight"),
}  # fmt: skip


def _hurt_in_turn(rank, world_size, recipe, shards, options):
    """One tensor of each kind is hurt on the last rank: name -> the tensors and ranks that this rank is told."""
    settings = config(recipe, shards, shards, *options)
    gan = trained(settings, stop=24, rank=rank, world_size=world_size)
    ranks, growth = Ranks(60), Growth(settings.stages)
    tensors = gan.weights() | gan.moments()
    told = {}
    for kind in ONE_OF_EACH[recipe]:
        name = next(name for name in tensors if name.startswith(kind) or name.endswith(kind))
        undo = _flip(tensors[name]) if rank == world_size - 1 else lambda: None
        with pytest.raises(RanksDiffer) as caught:
            fingerprint.compare(gan, growth.at(24), 24, ranks)
        told[name] = (caught.value.tensors, caught.value.ranks)
        undo()
    fingerprint.compare(gan, growth.at(24), 24, ranks)
    return told


@pytest.mark.parametrize("recipe", ["both", pytest.param("wav2pix", marks=pytest.mark.slow)])
def test_a_bit_of_one_rank_is_found_and_named_on_both(pair, portrait_shards, recipe):
    options = ("train.precision=fp32", "train.channels_last=true")
    first, second = pair.run(_hurt_in_turn, recipe, portrait_shards, options)
    assert first == second
    assert len(first) == len(ONE_OF_EACH[recipe])
    assert first == {name: ([name], [0, 1]) for name in first}


@pytest.mark.parametrize("recipe", ["both", pytest.param("dcgan", marks=pytest.mark.slow)])
def test_no_tensor_is_left_out(portrait_shards, tmp_path, recipe):
    """What a checkpoint keeps is in the fingerprint, and a bit of it changes its own number."""
    settings = config(recipe, portrait_shards, tmp_path, "train.precision=fp32")
    gan, phase = trained(settings, stop=16), Growth(settings.stages).at(16)
    tensors = gan.weights() | gan.moments()
    assert tensors.keys() == state(gan, tmp_path).keys()
    before = fingerprint.fingerprint(gan, phase, 16)
    assert fingerprint.fingerprint(gan, phase, 16) == before
    for tensor in tensors.values():
        _flip(tensor)
    after = fingerprint.fingerprint(gan, phase, 16)
    assert {name for name in before if before[name] != after[name]} == tensors.keys()


def _told(rank, world_size, shards, kind, odd):
    settings = config("house", shards, shards, batch_size=4 * world_size)
    gan = trained(settings, stop=16, rank=rank, world_size=world_size)
    growth, seen = Growth(settings.stages), 56
    if rank == odd and kind == "schedule":
        seen = 64
    elif rank == odd and kind == "moments":
        gan.generator_side.optimizer.state.popitem()
    elif rank == odd and kind == "scale":
        gan.generator_side.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    elif rank == odd:
        with torch.no_grad():
            for parameter in gan.networks.discriminator.parameters():
                parameter += 1
    try:
        fingerprint.compare(gan, growth.at(seen), seen, Ranks(60))
    except RanksDiffer as error:
        return str(error), error.tensors
    return None


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [("schedule", "schedule"), ("moments", "the set of tensors that have moments"), ("scale", "scale/generator")],
)
def test_what_is_no_tensor_is_compared_too(pair, portrait_shards, kind, tensor):
    for text, tensors in pair.run(_told, portrait_shards, kind, 1):
        assert tensors == [tensor]
        assert f"ranks 0, 1 differ from each other in {tensor}. Nothing of this was saved" in text
        assert "\n" not in text


@pytest.mark.slow
def test_of_three_ranks_the_odd_one_is_named(portrait_shards):
    three = Pair(3)
    try:
        for text, tensors in three.run(_told, portrait_shards, "weights", 1, timeout=120):
            assert "rank 1 differs from most in networks.discriminator." in text
            assert f" and {len(tensors) - 3} more" in text
    finally:
        three.close()


@pytest.mark.parametrize(
    ("values", "odd"),
    [([5, 5, 7, 5], ([2], True)), ([5, 7], ([0, 1], False)), ([1, 2, 2, 1], ([0, 1, 2, 3], False)),
     ([3, 1, 1, 2, 1], ([0, 3], True)), ([4, 4], ([], True))],
)  # fmt: skip
def test_the_majority_is_right(values, odd):
    assert fingerprint._odd(values) == odd
