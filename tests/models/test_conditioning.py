import torch

from t2f_dist.config import schema
from t2f_dist.models.conditioning import ConditioningAugmentation


def layer() -> ConditioningAugmentation:
    torch.manual_seed(0)
    return ConditioningAugmentation(schema.Conditioning(size=3), 5).double()


def embeddings(num: int) -> torch.Tensor:
    return torch.randn(num, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_draws_have_the_mean_and_the_variance_that_it_states():
    augmentation, num = layer(), 200_000
    embedding = embeddings(1).expand(num, -1)
    noise = torch.randn(num, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        condition, mean, log_variance = augmentation(embedding, noise)
    variance = log_variance[0].exp()
    error = (variance / num).sqrt()  # one standard error of the mean
    assert ((condition.mean(dim=0) - mean[0]).abs() < 5 * error).all()
    torch.testing.assert_close(condition.var(dim=0), variance, rtol=0.02, atol=0)
    assert variance.max() / variance.min() > 1.05, "each dimension has a variance of its own"


def test_without_noise_the_condition_is_the_mean_and_the_layer_is_linear():
    augmentation, embedding = layer(), embeddings(4)
    condition, mean, log_variance = augmentation(embedding, torch.zeros(4, 3, dtype=torch.float64))
    assert torch.equal(condition, mean)
    doubled = augmentation(2 * embedding, torch.zeros(4, 3, dtype=torch.float64))
    bias = augmentation.layer.bias
    assert bias is not None
    torch.testing.assert_close(doubled[1] - bias[:3], 2 * (mean - bias[:3]))
    torch.testing.assert_close(doubled[2] - bias[3:], 2 * (log_variance - bias[3:]))


def test_a_dimension_whose_variance_is_small_still_gets_a_gradient():
    """A rectified standard deviation would be dead here."""
    augmentation = layer()
    with torch.no_grad():
        assert augmentation.layer.bias is not None
        augmentation.layer.bias[3:] = -10
    condition, _, _ = augmentation(embeddings(4), torch.ones(4, 3, dtype=torch.float64))
    condition.sum().backward()
    gradient = augmentation.layer.weight.grad
    assert gradient is not None
    assert (gradient[3:].abs().sum(dim=1) > 0).all()
