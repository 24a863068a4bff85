import pytest
import torch

from t2f_dist.models.dropout import PositionDropout

KEYS = torch.arange(1000, 1000 + 256)


def kept(p: float, of: str, layer: int, keys: torch.Tensor, *shape: int) -> torch.Tensor:
    """0 and 1 in float64, one for each element."""
    return (PositionDropout(p, of, layer)(torch.ones(len(keys), *shape), keys) > 0).double()


def splitmix(state: int) -> int:
    """The published finaliser, in whole numbers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
    return state ^ (state >> 31)


def test_the_bits_are_those_of_whole_numbers():
    keys, layer, p = [0, 1, -5, 2**63 - 1, -(2**63)], 3, 0.4
    found = kept(p, "elements", layer, torch.tensor(keys), 2, 3)
    golden = 0x9E3779B97F4A7C15
    for row, key in zip(found, keys, strict=True):
        start = splitmix((splitmix(key % 2**64) + layer * golden) % 2**64)
        for index, element in enumerate(row.flatten().tolist(), start=1):
            uniform = (splitmix((start + index * golden) % 2**64) >> 11) / 2**53
            assert element == (uniform < 1 - p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("of", ["channels", "elements"])
def test_the_share_and_the_mean_are_kept(p, of):
    shape = (512, 1, 1) if of == "channels" else (8, 8, 8)
    share = kept(p, of, 0, KEYS, *shape)
    error = (p * (1 - p) / share.numel()) ** 0.5
    assert abs(share.mean().item() - (1 - p)) < 5 * error
    x = torch.rand(256, *shape) + 1
    out = PositionDropout(p, of, 0)(x, KEYS)
    torch.testing.assert_close(out, torch.where(share > 0, x / (1 - p), 0))
    assert abs((out.mean() / x.mean()).item() - 1) < 5 * error / (1 - p)


def test_elements_samples_and_layers_are_independent_of_each_other():
    """Correlations over 256 keys of 512 elements: none beyond what chance gives."""
    masks = torch.stack([kept(0.5, "elements", layer, KEYS, 512) for layer in range(3)]) * 2 - 1  # [3, 256, 512]
    chance = 6 / (256 * 512) ** 0.5
    for first in range(3):
        for second in range(first):
            assert (masks[first] * masks[second]).mean().abs() < chance, "layers"
            assert (masks[first, 1:] * masks[second, :-1]).mean().abs() < chance, "the next layer of the next key"
    for shift in (1, 2, 4, 8, 16, 64, 128):
        assert (masks[0, shift:] * masks[0, :-shift]).mean().abs() < 1.5 * chance, f"keys {shift} apart"
        assert (masks[0, :, shift:] * masks[0, :, :-shift]).mean().abs() < 1.5 * chance, f"elements {shift} apart"
    between_keys = masks[0] @ masks[0].T / 512 - torch.eye(256)
    assert between_keys.abs().max() < 6 / 512**0.5
    assert len(torch.unique(masks[0], dim=0)) == 256


def test_how_a_batch_is_shared_changes_nothing():
    x = torch.randn(8, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    keys = torch.randint(-(2**63), 2**63 - 1, (8,), generator=torch.Generator().manual_seed(1))
    for of in ("channels", "elements"):
        dropout = PositionDropout(0.5, of, 2)
        state = torch.get_rng_state()
        whole = dropout(x, keys)
        assert torch.equal(torch.get_rng_state(), state)
        parts = torch.cat([dropout(a, b) for a, b in zip(x.split(3), keys.split(3), strict=True)])
        assert torch.equal(parts, whole)
        order = [5, 2, 7, 0, 1, 3, 6, 4]
        assert torch.equal(dropout(x[order], keys[order]), whole[order])
        assert torch.equal(dropout(x.to(memory_format=torch.channels_last), keys), whole)


def test_a_channel_goes_whole():
    mask = kept(0.5, "channels", 0, KEYS, 16, 3, 3)
    assert torch.equal(mask, mask[:, :, :1, :1].expand_as(mask))
    assert mask[:, :, 0, 0].mean(dim=1).std() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_format_has_the_same_mask(dtype):
    x = torch.ones(256, 12, 2, 2, dtype=dtype)
    out = PositionDropout(0.5, "elements", 1)(x, KEYS)
    assert out.dtype == dtype
    assert torch.equal(out.double(), 2 * kept(0.5, "elements", 1, KEYS, 12, 2, 2))


def test_evaluation_and_a_share_of_nothing_change_nothing_and_all_is_zero():
    x = torch.rand(256, 5)
    assert torch.equal(PositionDropout(0.5, "elements", 0).eval()(x, KEYS), x)
    assert torch.equal(PositionDropout(0.0, "elements", 0)(x, KEYS), x)
    assert torch.equal(PositionDropout(1.0, "elements", 0)(x, KEYS), torch.zeros_like(x))


def test_the_gradient_is_that_of_the_mask():
    x = torch.randn(4, 6, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: PositionDropout(0.3, "elements", 0)(x, KEYS[:4]), x)


@pytest.mark.gpu
def test_a_gpu_finds_the_same_bits():
    x, keys = torch.rand(256, 16, 8, 8), KEYS * 0x123456789ABCDEF
    for of in ("channels", "elements"):
        dropout = PositionDropout(0.5, of, 5)
        assert torch.equal(dropout(x.cuda(), keys.cuda()).cpu(), dropout(x, keys))
