import copy

import pytest
import torch

from t2f_dist.models.batch_norm import GroupBatchNorm

GROUP = 4
SHAPES = [(8, 3), (8, 3, 5, 6), (8, 3, 7)]
TORCH = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def norm(momentum: float = 0.1) -> GroupBatchNorm:
    torch.manual_seed(0)
    layer = GroupBatchNorm(3, GROUP, momentum).double()
    with torch.no_grad():
        layer.bias.copy_(normal(3, seed=9))
    return layer


def beside(layer: GroupBatchNorm, dims: int) -> torch.nn.Module:
    """Torch's own, with the same weights and buffers."""
    other = TORCH[dims](3, momentum=layer.momentum).double()
    other.load_state_dict(layer.state_dict(), strict=False)
    return other


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_group_is_normalised_as_torch_does_a_batch_gradients_included(shape):
    layer = norm()
    other = beside(layer, len(shape))
    x = (3 * normal(*shape) + 1).requires_grad_()
    out = layer(x)
    expected = torch.cat([other(group) for group in x.split(GROUP)])
    torch.testing.assert_close(out, expected)
    weights = normal(*shape, seed=1)
    found = torch.autograd.grad((out * weights).sum(), [x, *layer.parameters()])
    wanted = torch.autograd.grad((expected * weights).sum(), [x, *other.parameters()])
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_running_statistics_are_those_of_torch_and_evaluation_uses_them(shape):
    layer = norm(momentum=0.3)
    other = beside(layer, len(shape))
    for step in range(3):
        x = 3 * normal(GROUP, *shape[1:], seed=step) + 1
        layer(x), other(x)
        found = layer.statistics()
        assert found is not None
        layer.update(found)
    assert layer.statistics() is None
    torch.testing.assert_close(layer.running_mean, other.running_mean)
    torch.testing.assert_close(layer.running_var, other.running_var)
    x = normal(3, *shape[1:], seed=7)  # no whole group
    torch.testing.assert_close(layer.eval()(x), other.eval()(x))
    assert layer.statistics() is None, "evaluation is not remembered"
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sharing_a_batch_changes_nothing(shape):
    whole, shared, ranks = norm(), norm(), [norm(), norm()]
    x = 3 * normal(*shape) + 1
    out = whole(x)
    torch.testing.assert_close(torch.cat([shared(part) for part in x.split(GROUP)]), out)  # parts of one rank
    torch.testing.assert_close(torch.cat([rank(part) for rank, part in zip(ranks, x.split(GROUP), strict=True)]), out)
    torch.testing.assert_close(shared.statistics(), whole.statistics())
    torch.testing.assert_close(sum(rank.statistics() for rank in ranks) / 2, whole.statistics())


def test_a_drawing_that_is_repeated_leaves_the_statistics_as_they_were():
    once, twice = norm(), norm()
    x = normal(8, 3)
    once(x)
    with torch.no_grad():
        twice(x)
    twice(x)
    torch.testing.assert_close(once.statistics(), twice.statistics())


def test_what_a_mask_hides_changes_nothing():
    lengths = [7, 3, 0, 5]
    layer, other = norm(), norm()
    mask = (torch.arange(7) < torch.tensor(lengths)[:, None])[:, None]
    x = 3 * normal(4, 3, 7) + 1
    out = layer(x, mask)
    valid = torch.cat([row[:, :length] for row, length in zip(x, lengths, strict=True)], dim=1)  # [F, all valid steps]
    as_one_group = valid.T.reshape(1, -1, 3).transpose(1, 2).repeat(GROUP, 1, 1)  # the same moments
    torch.testing.assert_close(other(as_one_group)[0], torch.cat([o[:, :n] for o, n in zip(out, lengths)], dim=1))
    found = layer.statistics()
    torch.testing.assert_close(found, torch.stack([valid.mean(dim=1), valid.var(dim=1)]))
    wild = torch.where(mask, x, 1e6 * normal(4, 3, 7, seed=3))
    torch.testing.assert_close(layer(wild, mask) * mask, out * mask)
    longer = torch.nn.functional.pad(x, (0, 5))
    torch.testing.assert_close(layer(longer, torch.nn.functional.pad(mask, (0, 5)))[..., :7] * mask, out * mask)
    everything = torch.ones(4, 1, 7)
    torch.testing.assert_close(norm()(x, everything), norm()(x))


def test_a_group_of_which_nothing_counts_moves_no_statistics():
    layer, alone = norm(), norm()
    layer.running_mean.fill_(5)
    x = normal(8, 3, 5).requires_grad_()
    mask = torch.ones(8, 1, 5)
    mask[4:] = 0
    out = layer(x, mask)
    out.sum().backward()
    assert torch.isfinite(out).all() and x.grad is not None and torch.isfinite(x.grad).all()
    alone(x[:4], mask[:4])
    running = torch.stack([layer.running_mean, layer.running_var])
    found, half = layer.statistics(), alone.statistics()
    assert found is not None and half is not None
    torch.testing.assert_close(found, (half + running) / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_of_float32_where_activations_are_half(dtype):
    layer = GroupBatchNorm(3, GROUP, 0.1)
    x = (2000 * normal(8, 3, 6, 6)).to(dtype)  # squares of 2000 overflow fp16
    out = layer(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), layer(x.float()), atol=0.02, rtol=0.01)
    found = layer.statistics()
    assert found is not None and found.dtype == torch.float32


def test_a_pixel_order_in_memory_changes_nothing():
    x = normal(8, 3, 5, 6)
    out = norm()(x.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, norm()(x))


def test_what_is_remembered_has_no_graph_and_can_be_copied():
    layer = norm()
    layer(normal(8, 3).requires_grad_())
    found = layer.statistics()
    assert found is not None and not found.requires_grad
    torch.testing.assert_close(copy.deepcopy(layer).statistics(), found)
    assert set(layer.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    with torch.device("meta"):
        assert GroupBatchNorm(3, GROUP, 0.1).running_var.is_meta


def test_weights_begin_near_one():
    torch.manual_seed(0)
    layer = GroupBatchNorm(10_000, GROUP, 0.1)
    assert abs(layer.weight.mean().item() - 1) < 1e-3 and 0.019 < layer.weight.std().item() < 0.021
    assert not layer.bias.any()


def test_a_group_is_never_cut():
    with pytest.raises(AssertionError, match="6 samples cut a group of 4"):
        norm()(normal(6, 3))


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_what_is_bad_moves_no_running_statistics(spoilt: float):
    norm = GroupBatchNorm(3, group_size=2, momentum=0.3)
    norm.update(torch.arange(6.0).view(2, 3))
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    seen = torch.ones(2, 3)
    norm.update(seen, bad=torch.tensor(True))
    seen[1, 2] = spoilt
    norm.update(seen)
    norm.update(seen, bad=torch.tensor(False))
    assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, variance)
    norm.update(torch.ones(2, 3), bad=torch.tensor(False))
    torch.testing.assert_close(norm.running_mean, mean + 0.3 * (1 - mean))
