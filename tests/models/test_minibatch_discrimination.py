import math

import pytest
import torch

from t2f_dist.config import networks
from t2f_dist.models.minibatch_discrimination import MinibatchDiscrimination


def layer(num_features: int, group_size: int = 2, num_kernels: int = 2, kernel_size: int = 2, scale: float = 1.0):
    torch.manual_seed(0)
    section = networks.MinibatchDiscrimination(
        num_kernels=num_kernels, kernel_size=kernel_size, group_size=group_size, scale=scale
    )
    return MinibatchDiscrimination(section, num_features).double()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_two_images_in_figures():
    """Features (1, 0) and (0, 2); the kernel matrices are M_1 = T[0], M_2 = 2 T[1]."""
    crowd = layer(2)
    with torch.no_grad():
        crowd.kernels.copy_(torch.tensor([[[1.0, 0.0], [0.5, 0.25]], [[0.5, 0.5], [0.0, -0.5]]]))
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    # kernel 1: (1, 0) and (1, 1), 1 apart; kernel 2: (.5, .25) and (0, -1), 1.75 apart
    closeness = torch.tensor([1 + math.exp(-1), 1 + math.exp(-1.75)], dtype=torch.float64)
    torch.testing.assert_close(crowd(features), closeness.expand(2, 2))


def test_it_is_the_sum_of_the_paper():
    crowd, x = layer(5, group_size=3, num_kernels=4, kernel_size=6), normal(6, 5)
    matrices = torch.einsum("na,abc->nbc", x, crowd.kernels)
    for group in ([0, 1, 2], [3, 4, 5]):
        for i in group:
            for b in range(4):
                wanted = sum(torch.exp(-(matrices[i, b] - matrices[j, b]).abs().sum()) for j in group)
                torch.testing.assert_close(crowd(x)[i, b], wanted)


def test_a_share_of_whole_groups_is_as_the_whole():
    crowd, x = layer(5, group_size=4), normal(12, 5)
    torch.testing.assert_close(torch.cat([crowd(x[:4]), crowd(x[4:])]), crowd(x))
    with pytest.raises(AssertionError, match="6 images cut a group of 4"):
        crowd(x[:6])


def test_images_that_are_alike_are_told():
    crowd = layer(64, group_size=8, num_kernels=16)
    alike, unlike = normal(1, 64).expand(8, -1), normal(8, 64)
    torch.testing.assert_close(crowd(alike), torch.full((8, 16), 8.0, dtype=torch.float64))
    assert (crowd(unlike) < 7).all() and (crowd(unlike) > 1).all()


@pytest.mark.parametrize("num_features", [16, 8192])
def test_it_learns_from_the_start_whatever_the_number_of_features(num_features):
    crowd, x = layer(num_features, group_size=8, kernel_size=5), normal(8, num_features)
    closeness = crowd(x)
    assert 1.01 < closeness.mean() < 4, "neither alone nor all alike"
    closeness.sum().backward()
    assert crowd.kernels.grad is not None and crowd.kernels.grad.abs().max() > 1e-5


def test_gradients_hold_twice_over():
    crowd, x = layer(3), normal(4, 3).requires_grad_()
    assert torch.autograd.gradcheck(crowd, x)
    assert torch.autograd.gradgradcheck(crowd, x)
