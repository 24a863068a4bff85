from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from t2f_dist.config import loss as options
from t2f_dist.losses.penalties import PENALTIES, r1, r2, wgan_gp

SIZES = (4, 8)


def drawn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


REALS = tuple(drawn(6, 3, size, size, seed=size) for size in SIZES)
FAKES = tuple(drawn(6, 3, size, size, seed=size + 1) for size in SIZES)
SLOPES = tuple(drawn(3, size, size, seed=size + 2) for size in SIZES)
MIXING = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SHARE = MIXING.view(-1, 1, 1, 1)


def quadratic(images):
    """Half the square of the smallest scale, three halves of that of the next: gradients x and 3 x."""
    return sum(0.5 * (1 + 2 * level) * image.square().sum(dim=(1, 2, 3)) for level, image in enumerate(images))


def squares(images):
    return images.square().sum(dim=(1, 2, 3))


def test_the_options_name_what_there_is():
    assert set(get_args(options.Penalty.model_fields["kind"].annotation)) == set(PENALTIES)


@pytest.mark.parametrize("levels", [1, 2])
def test_of_a_linear_critic_the_gradient_is_its_slope(levels):
    reals, fakes = REALS[:levels], FAKES[:levels]
    slopes = SLOPES[:levels]
    squared_norm = sum(slope.square().sum() for slope in slopes)

    def score(images):
        return sum((image * slope).sum(dim=(1, 2, 3)) for image, slope in zip(images, slopes, strict=True))

    torch.testing.assert_close(r1(score, reals, fakes, MIXING), 0.5 * squared_norm)
    torch.testing.assert_close(r2(score, reals, fakes, MIXING), 0.5 * squared_norm)
    torch.testing.assert_close(wgan_gp(score, reals, fakes, MIXING), (squared_norm.sqrt() - 1) ** 2)


def test_of_a_quadratic_critic_it_is_the_image_and_the_norm_is_that_of_all_scales_of_a_sample():
    torch.testing.assert_close(
        r1(quadratic, REALS, FAKES, MIXING), 0.5 * (squares(REALS[0]) + 9 * squares(REALS[1])).mean()
    )
    torch.testing.assert_close(
        r2(quadratic, REALS, FAKES, MIXING), 0.5 * (squares(FAKES[0]) + 9 * squares(FAKES[1])).mean()
    )
    between = [SHARE * real + (1 - SHARE) * fake for real, fake in zip(REALS, FAKES, strict=True)]
    norms = (squares(between[0]) + 9 * squares(between[1])).sqrt()
    torch.testing.assert_close(wgan_gp(quadratic, REALS, FAKES, MIXING), (norms - 1).square().mean())


def test_wgan_gp_mixes_from_fake_to_real():
    for share, images in [(0.0, FAKES), (1.0, REALS)]:
        norms = (squares(images[0]) + 9 * squares(images[1])).sqrt()
        mixing = torch.full((6,), share, dtype=torch.float32)
        torch.testing.assert_close(wgan_gp(quadratic, REALS, FAKES, mixing), (norms - 1).square().mean())


def test_what_lies_between_two_pyramids_is_a_pyramid():
    """One mixing for all scales: a critic that compares each scale with the next one's mean finds nothing amiss."""
    reals, fakes = ((F.avg_pool2d(images[1], 2), images[1]) for images in (REALS, FAKES))
    seen = []

    def score(images):
        seen.append(images)
        return quadratic(images)

    wgan_gp(score, reals, fakes, MIXING)
    torch.testing.assert_close(F.avg_pool2d(seen[0][1], 2), seen[0][0])


@pytest.mark.parametrize("name", PENALTIES)
def test_it_is_the_mean_over_shares_of_a_batch(name):
    whole = PENALTIES[name](quadratic, REALS, FAKES, MIXING)
    halves = [
        PENALTIES[name](
            quadratic, tuple(image[half] for image in REALS), tuple(image[half] for image in FAKES), MIXING[half]
        )
        for half in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(whole, torch.stack(halves).mean())


@pytest.mark.parametrize("name", PENALTIES)
def test_the_images_get_no_gradient_and_keep_none(name):
    reals, fakes = (tuple(image.clone().requires_grad_() for image in images) for images in (REALS, FAKES))
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    PENALTIES[name](lambda images: weight * quadratic(images), reals, fakes, MIXING).backward()
    assert weight.grad is not None
    assert all(image.grad is None for image in reals + fakes)


@pytest.mark.parametrize("name", PENALTIES)
def test_scaling_the_scores_changes_nothing(name):
    plain = PENALTIES[name](quadratic, REALS, FAKES, MIXING)
    torch.testing.assert_close(PENALTIES[name](quadratic, REALS, FAKES, MIXING, scale=65536.0), plain)


def test_scaling_the_scores_keeps_what_half_precision_would_lose():
    reals = tuple(images.float() for images in REALS)

    def score(images):
        return sum((image.half() * 1e-4 * 1e-4).float().sum(dim=(1, 2, 3)) for image in images)

    assert r1(score, reals, reals, MIXING) == 0  # 1e-8 is less than float16 holds
    expected = torch.tensor(0.5 * 1e-16 * sum(3 * size**2 for size in SIZES))
    torch.testing.assert_close(r1(score, reals, reals, MIXING, scale=32768.0), expected, rtol=5e-3, atol=0)


@pytest.mark.parametrize("name", PENALTIES)
def test_double_backward_agrees_with_differences(name):
    """The gradient by the parameters of a critic that is curved in both, and joins its scales."""
    kernels = drawn(2, 3, 3, 3, seed=10).requires_grad_(), drawn(2, 5, 3, 3, seed=11).requires_grad_()
    reals, fakes = (tuple(image[:2] for image in images) for images in (REALS, FAKES))

    def penalty(fine, coarse):
        def score(images):
            small, large = images
            features = F.avg_pool2d(torch.tanh(0.3 * F.conv2d(large, fine, padding=1)), 2)
            return torch.tanh(0.3 * F.conv2d(torch.cat([small, features], dim=1), coarse)).sum(dim=(1, 2, 3))

        return PENALTIES[name](score, reals, fakes, MIXING[:2])

    assert torch.autograd.gradcheck(penalty, kernels)


def test_the_gradient_of_a_linear_critic_by_its_slope():
    """R1 = |w|^2 / 2 gives w; (|w| - 1)^2 gives 2 (1 - 1 / |w|) w."""
    slope = SLOPES[0].clone().requires_grad_()

    def score(images):
        return (images[0] * slope).sum(dim=(1, 2, 3))

    for name, expected in [
        ("r1", SLOPES[0]),
        ("r2", SLOPES[0]),
        ("wgan_gp", 2 * (1 - 1 / SLOPES[0].norm()) * SLOPES[0]),
    ]:
        (gradient,) = torch.autograd.grad(PENALTIES[name](score, REALS[:1], FAKES[:1], MIXING), slope)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_flat_critic_gives_no_infinite_gradient(name):
    weight = torch.zeros(3, 4, 4, dtype=torch.float64, requires_grad=True)

    def score(images):
        return (images[0] * weight).sum(dim=(1, 2, 3))

    loss = PENALTIES[name](score, REALS[:1], FAKES[:1], MIXING)
    loss.backward()
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()
    expected = torch.tensor(1.0 if name == "wgan_gp" else 0.0, dtype=torch.float64)
    torch.testing.assert_close(loss.detach(), expected, atol=1e-5, rtol=0)
