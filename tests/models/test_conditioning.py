import pytest
import torch

from t2f_dist.config.condition import Augmentation, Direct, Projection
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.conditioning import CONDITIONINGS

BATCH_NORM = BatchNorm(group_size=4)


def made(section) -> torch.nn.Module:
    torch.manual_seed(0)
    return CONDITIONINGS[type(section)](section, 5, BATCH_NORM).double()


def augmentation() -> torch.nn.Module:
    return made(Augmentation(size=3))


def embeddings(num: int) -> torch.Tensor:
    return torch.randn(num, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_draws_have_the_mean_and_the_variance_that_it_states():
    layer, num = augmentation(), 200_000
    embedding = embeddings(1).expand(num, -1)
    noise = torch.randn(num, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        condition, mean, log_variance = layer(embedding, noise)
    variance = log_variance[0].exp()
    error = (variance / num).sqrt()  # one standard error of the mean
    assert ((condition.mean(dim=0) - mean[0]).abs() < 5 * error).all()
    torch.testing.assert_close(condition.var(dim=0), variance, rtol=0.02, atol=0)
    assert variance.max() / variance.min() > 1.05, "each dimension has a variance of its own"


def test_without_noise_the_condition_is_the_mean_and_the_layer_is_linear():
    layer, embedding = augmentation(), embeddings(4)
    condition, mean, log_variance = layer(embedding, torch.zeros(4, 3, dtype=torch.float64))
    assert torch.equal(condition, mean)
    doubled = layer(2 * embedding, torch.zeros(4, 3, dtype=torch.float64))
    bias = layer.layer.bias
    torch.testing.assert_close(doubled[1] - bias[:3], 2 * (mean - bias[:3]))
    torch.testing.assert_close(doubled[2] - bias[3:], 2 * (log_variance - bias[3:]))


def test_a_dimension_whose_variance_is_small_still_gets_a_gradient():
    """A rectified standard deviation would be dead here."""
    layer = augmentation()
    with torch.no_grad():
        layer.layer.bias[3:] = -10
    condition, _, _ = layer(embeddings(4), torch.ones(4, 3, dtype=torch.float64))
    condition.sum().backward()
    assert (layer.layer.weight.grad[3:].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("section", [Augmentation(size=3), Projection(size=3), Direct()], ids=lambda s: s.kind)
def test_each_states_its_size_and_keeps_to_one_shape(section):
    layer, noise = made(section), torch.zeros(8, 3, dtype=torch.float64)
    assert layer.size == (5 if section.kind == "direct" else 3)
    for part in layer(embeddings(8), noise):
        assert part.shape == (8, layer.size) and part.dtype == torch.float64
    whole = layer(embeddings(8), noise)
    parts = [layer(some, noise[:4]) for some in embeddings(8).split(4)]
    for number, part in enumerate(whole):
        torch.testing.assert_close(torch.cat([each[number] for each in parts]), part)


@pytest.mark.parametrize("section", [Projection(size=3), Direct()], ids=lambda s: s.kind)
def test_without_a_gaussian_the_condition_is_its_own_mean_and_noise_does_not_count(section):
    layer = made(section)
    condition, mean, log_variance = layer(embeddings(8), torch.zeros(8, 0, dtype=torch.float64))
    assert torch.equal(condition, mean) and not log_variance.any()
    assert torch.equal(layer(embeddings(8), torch.ones(8, 3, dtype=torch.float64))[0], condition)


def test_a_projection_is_normalised_within_its_group_then_rectified():
    layer = made(Projection(size=3))
    condition, _, _ = layer(embeddings(8), torch.zeros(8, 0))
    for group, out in zip(embeddings(8).split(4), condition.split(4), strict=True):
        linear = group @ layer.layer.weight.T
        normal = (linear - linear.mean(dim=0)) / (linear.var(dim=0, unbiased=False) + 1e-5).sqrt() * layer.norm.weight
        torch.testing.assert_close(out, torch.where(normal > 0, normal, 0.2 * normal))
    alone = layer.eval()(embeddings(1), torch.zeros(1, 0))[0]
    torch.testing.assert_close(alone, layer(embeddings(1).expand(3, -1), torch.zeros(3, 0))[0][:1])


def test_nothing_stays_nothing():
    layer = CONDITIONINGS[Direct](Direct(), 0, BATCH_NORM)
    assert layer.size == 0 and layer(torch.empty(4, 0), torch.empty(4, 0))[0].shape == (4, 0)
