import pytest
import torch

from t2f_dist.losses.penalties import PENALTIES, r1, wgan_gp

generator = torch.Generator().manual_seed(0)
REALS, FAKES = torch.randn(2, 6, 3, 4, 4, dtype=torch.float64, generator=generator)
SLOPE = torch.randn(3, 4, 4, dtype=torch.float64, generator=generator)
MIXING = torch.rand(6, dtype=torch.float64, generator=generator)


def linear(images):
    return (images * SLOPE).sum(dim=(1, 2, 3))


def quadratic(images):
    return 0.5 * images.square().sum(dim=(1, 2, 3))


def test_of_a_linear_critic_the_gradient_is_its_slope():
    norm = SLOPE.norm()
    torch.testing.assert_close(r1(linear, REALS, FAKES, MIXING), 0.5 * norm**2)
    torch.testing.assert_close(wgan_gp(linear, REALS, FAKES, MIXING), (norm - 1) ** 2)


def test_of_a_quadratic_critic_it_is_the_image_and_the_norm_is_that_of_the_whole_sample():
    torch.testing.assert_close(r1(quadratic, REALS, FAKES, MIXING), 0.5 * REALS.square().sum(dim=(1, 2, 3)).mean())
    share = MIXING.view(-1, 1, 1, 1)
    norms = (share * REALS + (1 - share) * FAKES).flatten(1).norm(dim=1)
    torch.testing.assert_close(wgan_gp(quadratic, REALS, FAKES, MIXING), (norms - 1).square().mean())


@pytest.mark.parametrize("name", PENALTIES)
def test_scaling_the_scores_changes_nothing(name):
    plain = PENALTIES[name](quadratic, REALS, FAKES, MIXING)
    torch.testing.assert_close(PENALTIES[name](quadratic, REALS, FAKES, MIXING, scale=65536.0), plain)


@pytest.mark.parametrize("name", PENALTIES)
def test_double_backward_agrees_with_differences(name):
    slope = SLOPE.clone().requires_grad_()

    def penalty(value):
        def score(images):
            return torch.tanh((images * value).sum(dim=(1, 2, 3)) * 0.1)

        return PENALTIES[name](score, REALS, FAKES, MIXING)

    assert torch.autograd.gradcheck(penalty, (slope,))


def test_a_flat_critic_gives_no_infinite_gradient():
    weight = torch.zeros(3, 4, 4, dtype=torch.float64, requires_grad=True)
    loss = wgan_gp(lambda images: (images * weight).sum(dim=(1, 2, 3)), REALS, FAKES, MIXING)
    loss.backward()
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()
    torch.testing.assert_close(loss.detach(), torch.tensor(1.0, dtype=torch.float64), atol=1e-5, rtol=0)
