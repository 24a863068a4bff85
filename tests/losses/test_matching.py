import math

import pytest
import torch
from torch.autograd import grad, gradcheck
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from t2f_dist.losses.matching import contrastive, kl_to_unit_gaussian

generator = torch.Generator()


@pytest.fixture(autouse=True)
def _same_numbers_whichever_tests_ran_before():
    generator.manual_seed(0)


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def chosen(*shape):
    return torch.rand(*shape, generator=generator) < 0.5


def test_kl_is_that_of_the_distributions():
    mean, log_variance = torch.randn(2, 5, 7, dtype=torch.float64, generator=generator)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    torch.testing.assert_close(kl_to_unit_gaussian(mean, log_variance), expected)
    zeros = torch.zeros(3, 4)
    assert kl_to_unit_gaussian(zeros, zeros) == 0


def test_the_gradient_of_kl_is_the_mean_and_half_of_what_the_variance_exceeds_one():
    mean, log_variance = torch.randn(2, 5, 7, dtype=torch.float64, generator=generator).unbind()
    mean, log_variance = mean.requires_grad_(), log_variance.requires_grad_()
    by_mean, by_log_variance = grad(kl_to_unit_gaussian(mean, log_variance), (mean, log_variance))
    torch.testing.assert_close(by_mean, mean.detach() / 5)
    torch.testing.assert_close(by_log_variance, 0.5 * (log_variance.detach().exp() - 1) / 5)


@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("with_queue", [False, True])
def test_contrastive_is_the_symmetric_cross_entropy_written_out(with_negatives, with_queue):
    images, conditions, negatives, queue, rivals = unit(6, 4), unit(6, 4), unit(6, 4), unit(5, 4), chosen(6, 5)
    expected = 0.0
    for group in (range(3), range(3, 6)):
        for i in group:
            met = [conditions[j] for j in group]
            if with_negatives:
                met += [negatives[j] for j in group]
            if with_queue:
                met += [queue[k] for k in range(5) if rivals[i, k]]
            scores = [math.exp(float(images[i] @ condition) / 0.2) for condition in met]
            back = [math.exp(float(images[j] @ conditions[i]) / 0.2) for j in group]
            own = math.exp(float(images[i] @ conditions[i]) / 0.2)
            expected -= 0.5 * (math.log(own / sum(scores)) + math.log(own / sum(back))) / 6
    value = contrastive(
        images,
        conditions,
        0.2,
        3,
        negatives if with_negatives else None,
        queue if with_queue else None,
        rivals if with_queue else None,
    )
    assert math.isclose(value, expected, rel_tol=1e-12)


def test_without_information_it_is_the_logarithm_of_the_rivals():
    same = torch.ones(8, 1, dtype=torch.float64)
    assert math.isclose(contrastive(same, same, 1.0, 4), math.log(4), rel_tol=1e-12)
    with_negative = contrastive(same, same, 1.0, 4, negatives=same)
    assert math.isclose(with_negative, 0.5 * (math.log(8) + math.log(4)), rel_tol=1e-12)
    # The image of row i meets i of the 8 in the queue.
    rivals = torch.arange(8) < torch.arange(8).unsqueeze(1)
    with_queue = contrastive(same, same, 1.0, 4, negatives=same, queue=same, rivals=rivals)
    by_image = sum(math.log(8 + i) for i in range(8)) / 8
    assert math.isclose(with_queue, 0.5 * (by_image + math.log(4)), rel_tol=1e-12)


def test_the_gradient_by_an_image_is_the_expected_condition_less_its_own():
    images, conditions, queue, rivals = unit(4, 3).requires_grad_(), unit(4, 3), unit(5, 3), chosen(4, 5)
    (slope,) = grad(contrastive(images, conditions, 0.5, 4, queue=queue, rivals=rivals), images)
    values = images.detach()
    for i in range(4):
        met = torch.cat([conditions, queue[rivals[i]]])
        own = (met @ values[i] / 0.5).softmax(0) @ met - conditions[i]
        back = (values @ conditions.T / 0.5).softmax(0)[i] @ conditions - conditions[i]  # of each condition, image i
        torch.testing.assert_close(slope[i], 0.5 * (own + back) / 0.5 / 4)


def test_what_is_masked_contributes_exactly_nothing():
    images, conditions, negatives, queue, rivals = unit(6, 4), unit(6, 4), unit(6, 4), unit(9, 4), chosen(6, 9)
    rivals[:, 3] = False

    def value_and_slopes(queue):
        leaves = [tensor.clone().requires_grad_() for tensor in (images, conditions, negatives, queue)]
        value = contrastive(*leaves[:2], 0.01, 3, *leaves[2:], rivals)
        return value, grad(value, leaves)

    value, slopes = value_and_slopes(queue)
    changed = queue.clone()
    changed[3] = 1e6
    other, other_slopes = value_and_slopes(changed)
    assert torch.equal(value, other)
    assert all(torch.equal(slope, other) for slope, other in zip(slopes, other_slopes, strict=True))
    assert (slopes[3][3] == 0).all()
    kept = torch.arange(9) != 3
    torch.testing.assert_close(contrastive(images, conditions, 0.01, 3, negatives, queue[kept], rivals[:, kept]), value)


@pytest.mark.parametrize("temperature", [1e4, 1.0, 0.001])
def test_a_queue_without_rivals_is_no_queue(temperature):
    images, conditions = unit(6, 4).requires_grad_(), unit(6, 4).requires_grad_()
    plain = contrastive(images, conditions, temperature, 3)
    for queue in (unit(9, 4), torch.zeros(9, 4, dtype=torch.float64), torch.zeros(0, 4, dtype=torch.float64)):
        none = torch.zeros(6, len(queue), dtype=torch.bool)
        empty = contrastive(images, conditions, temperature, 3, queue=queue, rivals=none)
        torch.testing.assert_close(empty, plain)
        for slope, expected in zip(
            grad(empty, (images, conditions)), grad(plain, (images, conditions), retain_graph=True), strict=True
        ):
            torch.testing.assert_close(slope, expected)


def test_only_images_see_negatives_and_queue():
    conditions = torch.eye(2, dtype=torch.float64)
    images = conditions.flip(0)  # similarity 0 to its own condition, 1 to the other's
    wrong = math.log(1 + math.e)
    both = torch.ones(2, 2, dtype=torch.bool)
    assert math.isclose(contrastive(images, conditions, 1.0, 2), wrong, rel_tol=1e-12)
    far = contrastive(images, conditions, 1.0, 2, negatives=conditions, queue=conditions, rivals=both)
    assert math.isclose(far, 0.5 * (math.log(3 * (1 + math.e)) + wrong), rel_tol=1e-12)


def test_groups_do_not_see_each_other_so_shares_average_to_the_whole():
    images, conditions, negatives, queue, rivals = unit(12, 4), unit(12, 4), unit(12, 4), unit(7, 4), chosen(12, 7)
    whole = contrastive(images, conditions, 0.1, 3, negatives, queue, rivals)
    shares = [
        contrastive(image, condition, 0.1, 3, negative, queue, rival)
        for image, condition, negative, rival in zip(
            images.split(6), conditions.split(6), negatives.split(6), rivals.split(6), strict=True
        )
    ]
    torch.testing.assert_close(whole, torch.stack(shares).mean())
    mean, log_variance = torch.randn(2, 12, 4, dtype=torch.float64, generator=generator)
    shares = [kl_to_unit_gaussian(*part) for part in zip(mean.split(6), log_variance.split(6), strict=True)]
    torch.testing.assert_close(kl_to_unit_gaussian(mean, log_variance), torch.stack(shares).mean())


def test_a_nearer_negative_costs_more():
    images = conditions = torch.eye(4, dtype=torch.float64)
    everyone = torch.ones(4, 4, dtype=torch.bool)
    far, near = (
        contrastive(images, conditions, 0.1, 4, -conditions),
        contrastive(images, conditions, 0.1, 4, conditions),
    )
    assert near > far + 0.3
    far = contrastive(images, conditions, 0.1, 4, queue=-conditions, rivals=everyone)
    near = contrastive(images, conditions, 0.1, 4, queue=conditions, rivals=everyone)
    assert near > far + 0.3


def test_gradients_agree_with_differences():
    leaves = [unit(*shape).requires_grad_() for shape in [(4, 3), (4, 3), (4, 3), (5, 3)]]
    rivals = chosen(4, 5)
    rivals[0] = False
    assert gradcheck(lambda i, c, n, q: contrastive(i, c, 0.5, 2, n, q, rivals), leaves)
