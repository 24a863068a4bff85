import pytest
import torch
from torch.autograd import grad, gradcheck

from t2f_dist.losses.features import feature_matching, l1


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_feature_matching_by_hand():
    # Two groups of two, two features. Means of fakes: (2, 1), (0, 0); of reals: (1, 1), (3, -1).
    fakes = torch.tensor([[1.0, 0.0], [3.0, 2.0], [1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    reals = torch.tensor([[1.0, 1.0], [1.0, 1.0], [6.0, -2.0], [0.0, 0.0]], requires_grad=True)
    loss = feature_matching(fakes, reals, 2)
    assert loss == (1**2 + 0**2 + 3**2 + 1**2) / 4
    by_fakes, by_reals = grad(loss, (fakes, reals), allow_unused=True)
    assert by_reals is None  # the discriminator's features of reals are a goal, not something to move
    # 2 (difference of the means) / 4 terms / 2 samples, alike for both samples of a group
    assert by_fakes.tolist() == [[0.25, 0.0], [0.25, 0.0], [-0.75, 0.25], [-0.75, 0.25]]


def test_only_the_mean_of_a_group_counts():
    fakes = drawn(6, 4, 2, 2)
    assert feature_matching(fakes, fakes[torch.tensor([2, 0, 1, 5, 3, 4])], 3) < 1e-30
    assert feature_matching(fakes, fakes[torch.tensor([5, 0, 1, 2, 3, 4])], 3) > 1e-3
    shifted = feature_matching(fakes + 0.5, fakes, 3)
    torch.testing.assert_close(shifted.item(), 0.25)


def test_the_noise_of_a_group_is_its_variance_over_its_size():
    fakes, reals = drawn(4096, 64), drawn(4096, 64, seed=1)
    torch.testing.assert_close(feature_matching(fakes, reals, 16).item(), 2 / 16, rtol=0.03, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_squared_in_float32(dtype):
    fakes, reals = torch.full((4, 3), 512.0, dtype=dtype), torch.zeros(4, 3, dtype=dtype)
    assert feature_matching(fakes, reals, 2) == 512.0**2  # more than float16 holds
    assert l1((fakes,), (reals,)).dtype == torch.float32


def test_l1_is_the_mean_absolute_difference_of_the_largest_scale():
    fakes = drawn(4, 3, 4, 4), drawn(4, 3, 8, 8, seed=1).requires_grad_()
    reals = drawn(4, 3, 4, 4, seed=2), drawn(4, 3, 8, 8, seed=3)
    loss = l1(fakes, reals)
    torch.testing.assert_close(loss, (fakes[1] - reals[1]).abs().sum() / (4 * 3 * 8 * 8))
    (slope,) = grad(loss, fakes[1])
    torch.testing.assert_close(slope, (fakes[1] - reals[1]).sign() / (4 * 3 * 8 * 8))


def test_shares_of_a_batch_average_to_the_whole():
    fakes, reals = drawn(12, 3, 4, 4), drawn(12, 3, 4, 4, seed=1)
    halves = list(zip(fakes.chunk(2), reals.chunk(2), strict=True))
    matched = torch.stack([feature_matching(*half, 3) for half in halves])
    torch.testing.assert_close(feature_matching(fakes, reals, 3), matched.mean())
    pixels = torch.stack([l1((fake,), (real,)) for fake, real in halves])
    torch.testing.assert_close(l1((fakes,), (reals,)), pixels.mean())


def test_gradients_agree_with_differences():
    fakes, reals = drawn(4, 3, 2, 2).requires_grad_(), drawn(4, 3, 2, 2, seed=1)
    assert gradcheck(lambda images: feature_matching(images, reals, 2), (fakes,))
    assert gradcheck(lambda images: l1((images,), (reals,)), (fakes,))
