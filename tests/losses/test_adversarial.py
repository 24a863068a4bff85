import math
from typing import get_args

import pytest
import torch
from torch.autograd import grad, gradcheck

from t2f_dist.config import loss as options
from t2f_dist.losses.adversarial import ADVERSARIAL, Labels, drift

TERMS = ("real", "fake", "generated")
PLAIN = Labels()
GROUPED = Labels(real_label=0.9, group_size=2)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def term(name, which):
    return getattr(ADVERSARIAL[name], which)


def slopes(loss, real, fake, labels):
    """The gradients by the real and by the fake logits; zeros where the loss does not look."""
    real, fake = (logits.clone().requires_grad_() for logits in (real, fake))
    value = loss(real, fake, labels)
    if not value.requires_grad:
        return torch.zeros_like(real), torch.zeros_like(fake)
    return grad(value, (real, fake), allow_unused=True, materialize_grads=True)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_the_options_name_what_there_is():
    assert set(get_args(options.Adversarial.model_fields["kind"].annotation)) == set(ADVERSARIAL)


def test_non_saturating_is_the_cross_entropy_of_a_sigmoid():
    real, fake = drawn(5), drawn(5, seed=1)
    loss, labels = ADVERSARIAL["non_saturating"], Labels(real_label=0.9)
    of_real, of_fake = torch.sigmoid(real), torch.sigmoid(fake)
    smoothed = -(0.9 * of_real.log() + 0.1 * (1 - of_real).log()).mean()
    torch.testing.assert_close(loss.real(real, fake, labels), smoothed)
    torch.testing.assert_close(loss.real(real, fake, PLAIN), -of_real.log().mean())
    torch.testing.assert_close(loss.fake(real, fake, labels), -(1 - of_fake).log().mean())
    torch.testing.assert_close(loss.generated(real, fake, labels), -of_fake.log().mean())
    torch.testing.assert_close(slopes(loss.real, real, fake, labels)[0], (of_real - 0.9) / 5)
    torch.testing.assert_close(slopes(loss.fake, real, fake, labels)[1], of_fake / 5)
    torch.testing.assert_close(slopes(loss.generated, real, fake, labels)[1], (of_fake - 1) / 5)


def test_wasserstein_is_a_difference_of_means():
    real, fake = numbers(-3.0, -0.5, 0.0, 2.0), numbers(1.0, 2.0, 3.0, 4.0)
    loss = ADVERSARIAL["wgan"]
    assert loss.real(real, fake, PLAIN) == 0.375
    assert loss.fake(real, fake, PLAIN) == 2.5
    assert loss.generated(real, fake, PLAIN) == -2.5
    assert slopes(loss.real, real, fake, PLAIN)[0].tolist() == [-0.25] * 4


def test_least_squares_are_mean_squared_errors_and_only_the_real_label_is_smoothed():
    real, fake = numbers(1.0, -1.0), numbers(0.5, 3.0)
    loss, labels = ADVERSARIAL["least_squares"], Labels(real_label=0.75)
    assert loss.real(real, fake, labels) == (0.25**2 + 1.75**2) / 2
    assert loss.fake(real, fake, labels) == (0.5**2 + 3**2) / 2
    assert loss.generated(real, fake, labels) == (0.5**2 + 2**2) / 2
    assert slopes(loss.real, real, fake, labels)[0].tolist() == [0.25, -1.75]
    assert slopes(loss.fake, real, fake, labels)[1].tolist() == [0.5, 3.0]
    assert slopes(loss.generated, real, fake, labels)[1].tolist() == [-0.5, 2.0]


def test_hinge_rests_beyond_its_margin_and_the_generator_does_not():
    real, fake = numbers(2.0, 0.5, -1.0, 1.5), numbers(-3.0, -0.5, 0.0, 4.0)
    loss = ADVERSARIAL["hinge"]
    assert loss.real(real, fake, PLAIN) == (0 + 0.5 + 2 + 0) / 4
    assert loss.fake(real, fake, PLAIN) == (0 + 0.5 + 1 + 5) / 4
    assert loss.generated(real, fake, PLAIN) == -0.125
    assert slopes(loss.real, real, fake, PLAIN)[0].tolist() == [0, -0.25, -0.25, 0]
    assert slopes(loss.fake, real, fake, PLAIN)[1].tolist() == [0, 0.25, 0.25, 0.25]
    assert slopes(loss.generated, real, fake, PLAIN)[1].tolist() == [-0.25] * 4


def test_relativistic_average_hinge_by_hand():
    # Groups of two: averages of reals 2 and 0, of fakes 1 and -1.
    real, fake = numbers(1.0, 3.0, -0.5, 0.5), numbers(0.0, 2.0, -1.25, -0.75)
    loss = ADVERSARIAL["relativistic_average_hinge"]
    # real - average fake: 0, 2, 0.5, 1.5; fake - average real: -2, 0, -1.25, -0.75
    assert loss.real(real, fake, GROUPED) == (1 + 0 + 0.5 + 0) / 4
    assert loss.fake(real, fake, GROUPED) == (0 + 1 + 0 + 0.25) / 4
    assert loss.generated(real, fake, GROUPED) == (1 + 3 + 1.5 + 2.5) / 4 + (3 + 1 + 2.25 + 1.75) / 4
    by_real, by_fake = slopes(loss.real, real, fake, GROUPED)
    assert by_real.tolist() == [-0.25, 0, -0.25, 0]
    assert by_fake.tolist() == [0.125] * 4  # through the average, which belongs to the whole group
    by_real, by_fake = slopes(loss.generated, real, fake, GROUPED)
    assert by_real.tolist() == [0.5] * 4
    assert by_fake.tolist() == [-0.5] * 4


def test_of_a_group_of_one_the_average_is_the_pair():
    real, fake = drawn(6), drawn(6, seed=1)
    loss = ADVERSARIAL["relativistic_average_hinge"]
    torch.testing.assert_close(loss.real(real, fake, PLAIN), (1 - (real - fake)).clamp(min=0).mean())
    torch.testing.assert_close(loss.fake(real, fake, PLAIN), loss.real(real, fake, PLAIN))


def test_relativistic_pairing_by_hand():
    real, fake = numbers(1.0, -2.0), numbers(0.5, 3.0)
    loss = ADVERSARIAL["relativistic_pairing"]
    assert loss.real(real, fake, PLAIN) == 0
    expected = (math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(5))) / 2
    assert math.isclose(loss.fake(real, fake, PLAIN), expected, rel_tol=1e-14)
    expected = (math.log(1 + math.exp(0.5)) + math.log(1 + math.exp(-5))) / 2
    assert math.isclose(loss.generated(real, fake, PLAIN), expected, rel_tol=1e-14)
    by_real, by_fake = slopes(loss.fake, real, fake, PLAIN)
    torch.testing.assert_close(by_fake, numbers(sigmoid(-0.5) / 2, sigmoid(5) / 2))
    torch.testing.assert_close(by_real, -by_fake)
    by_real, by_fake = slopes(loss.generated, real, fake, PLAIN)
    torch.testing.assert_close(by_fake, numbers(-sigmoid(0.5) / 2, -sigmoid(-5) / 2))
    torch.testing.assert_close(by_real, -by_fake)


@pytest.mark.parametrize(("name", "probability"), [("non_saturating", torch.sigmoid), ("least_squares", lambda x: x)])
def test_the_smoothed_optimum_lies_at_the_label_and_half_of_it_where_fakes_equal_reals(name, probability):
    labels = Labels(real_label=0.9)
    for terms, optimum in [(("real",), 0.9), (("real", "fake"), 0.45)]:  # 1606.03498, section 3.4
        logits = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        for _ in range(40):  # Newton; the terms are convex
            loss = sum(term(name, which)(logits, logits, labels) for which in terms)
            (slope,) = grad(loss, logits, create_graph=True)
            (curvature,) = grad(slope, logits)
            assert curvature > 0
            logits = (logits - slope / curvature).detach().requires_grad_()
        torch.testing.assert_close(probability(logits).item(), optimum)


@pytest.mark.parametrize("which", TERMS)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_each_term_is_the_mean_over_shares_of_a_batch_and_survives_large_logits(name, which):
    loss = term(name, which)
    for size, dtype in [(3, torch.float64), (500, torch.float64), (500, torch.float32)]:
        real, fake = (drawn(8) * size).to(dtype), (drawn(8, seed=1) * size).to(dtype)
        parts = [loss(*part, GROUPED) for part in zip(real.chunk(2), fake.chunk(2), strict=True)]
        torch.testing.assert_close(loss(real, fake, GROUPED), torch.stack(parts).mean())
        for values in (loss(real, fake, GROUPED), *slopes(loss, real, fake, GROUPED)):
            assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_two_sides_pull_apart(name):
    real = fake = torch.zeros(4, dtype=torch.float64)
    loss = ADVERSARIAL[name]

    def discriminated(real, fake, labels):
        return loss.real(real, fake, labels) + loss.fake(real, fake, labels)

    by_real, by_fake = slopes(discriminated, real, fake, GROUPED)
    assert (by_real < 0).all()
    # Least squares want fakes at 0, where these are.
    assert (by_fake == 0).all() if name == "least_squares" else (by_fake > 0).all()
    by_real, by_fake = slopes(loss.generated, real, fake, GROUPED)
    assert (by_fake < 0).all()
    assert (by_real > 0).all() if loss.relative else (by_real == 0).all()


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_a_mismatched_pair_is_pushed_down(name):
    real, mismatched = drawn(6), drawn(6, seed=1).abs() + 0.1
    _, by_mismatched = slopes(ADVERSARIAL[name].fake, real, mismatched, GROUPED)
    assert (by_mismatched >= 0).all()
    assert by_mismatched.sum() > 0


@pytest.mark.parametrize("name", [name for name, loss in ADVERSARIAL.items() if not loss.relative])
def test_what_is_not_relative_does_not_look_at_the_real_logits(name):
    fake, unseen = drawn(4), torch.full((4,), math.nan, dtype=torch.float64)
    for which in ("fake", "generated"):
        loss = term(name, which)
        assert loss(unseen, fake, PLAIN) == loss(fake, fake, PLAIN)


@pytest.mark.parametrize("which", TERMS)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_gradients_agree_with_differences(name, which):
    real, fake = drawn(4).requires_grad_(), drawn(4, seed=1).requires_grad_()
    assert gradcheck(lambda *logits: term(name, which)(*logits, GROUPED), (real, fake))


def test_drift_is_a_mean_square():
    assert drift(numbers(-3.0, -0.5, 0.0, 2.0)) == (9 + 0.25 + 4) / 4
