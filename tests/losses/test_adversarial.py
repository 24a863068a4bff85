import pytest
import torch

from t2f_dist.losses.adversarial import ADVERSARIAL, drift

LOGITS = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)


def test_non_saturating_is_the_cross_entropy_of_a_sigmoid():
    loss = ADVERSARIAL["non_saturating"]
    probability = torch.sigmoid(LOGITS)
    torch.testing.assert_close(loss.real(LOGITS), -probability.log().mean())
    torch.testing.assert_close(loss.fake(LOGITS), -(1 - probability).log().mean())
    torch.testing.assert_close(loss.generated(LOGITS), -probability.log().mean())


def test_wasserstein_is_a_difference_of_means():
    loss = ADVERSARIAL["wgan"]
    assert loss.real(LOGITS) == -LOGITS.mean() == loss.generated(LOGITS)
    assert loss.fake(LOGITS) == LOGITS.mean()
    assert drift(LOGITS) == (LOGITS**2).mean()


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_each_term_is_the_mean_over_shares_of_a_batch_and_survives_large_logits(name):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, dtype=torch.float64, generator=generator) * 500
    for term in ADVERSARIAL[name]:
        parts = torch.stack([term(part) for part in logits.chunk(4)])
        torch.testing.assert_close(term(logits), parts.mean())
        assert torch.isfinite(term(logits))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_two_sides_pull_apart(name):
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    loss = ADVERSARIAL[name]
    slopes = [torch.autograd.grad(term(logits), logits)[0] for term in loss]
    assert (slopes[0] < 0).all()
    assert (slopes[1] > 0).all()
    assert (slopes[2] < 0).all()
