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


# Identities, and rows without a condition: 12 rows in groups of 6. Of each group: two of one identity, one without a
# condition, one without a mismatched one (its negative is of its own identity), one whose negative is another's own.
WHOSE = torch.tensor([0, 1, 0, 2, 3, 4, 5, 6, 7, 7, 8, 9])
NEGATIVES = torch.tensor([1, 9, 8, 2, 9, 9, 9, 6, 5, 1, 7, 1])
PRESENT = torch.tensor([1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0], dtype=torch.bool)
KNOWN = {"identities": WHOSE, "negative_identities": NEGATIVES, "present": PRESENT}


def pieces() -> list[torch.Tensor]:
    """Images, conditions, negatives, queue."""
    return [unit(12, 4), unit(12, 4), unit(12, 4), unit(5, 4)]


def known(leaves: list[torch.Tensor], rivals: torch.Tensor, temperature: float = 0.2, **changes) -> torch.Tensor:
    images, conditions, negatives, queue = leaves
    return contrastive(images, conditions, temperature, 6, negatives, queue, rivals, **KNOWN | changes)


@pytest.mark.parametrize("without", [(), ("present",), ("identities", "negative_identities"), ("negative_identities",)])
def test_with_identities_and_presence_it_is_still_the_cross_entropy_written_out(without):
    (images, conditions, negatives, queue), rivals = pieces(), chosen(12, 5)
    expected = 0.0
    for group in (range(6), range(6, 12)):
        for i in group:
            if not PRESENT[i] and "present" not in without:
                continue

            def alike(i, j):
                return "identities" not in without and WHOSE[i] == WHOSE[j]

            met = [conditions[i]]
            for j in group:
                if j != i and not alike(i, j) and (PRESENT[j] or "present" in without):
                    met.append(conditions[j])
                if "negative_identities" in without or NEGATIVES[j] not in (WHOSE[i], WHOSE[j]):
                    met.append(negatives[j])
            met += [queue[k] for k in range(5) if rivals[i, k]]
            scores = [math.exp(float(images[i] @ condition) / 0.2) for condition in met]
            back = [math.exp(float(images[j] @ conditions[i]) / 0.2) for j in group if j == i or not alike(i, j)]
            own = math.exp(float(images[i] @ conditions[i]) / 0.2)
            expected -= 0.5 * (math.log(own / sum(scores)) + math.log(own / sum(back))) / 12
    value = known([images, conditions, negatives, queue], rivals, **dict.fromkeys(without))
    assert math.isclose(value, expected, rel_tol=1e-12)


def test_where_all_differ_and_all_are_present_identities_change_nothing():
    leaves, rivals, everyone = pieces(), chosen(12, 5), torch.arange(12)
    plain = known(leaves, rivals, identities=None, negative_identities=None, present=None)
    told = known(leaves, rivals, identities=everyone, negative_identities=everyone + 12, present=everyone >= 0)
    torch.testing.assert_close(told, plain, rtol=1e-14, atol=0)


def _value_and_slopes(leaves, rivals, **changes):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value = known(leaves, rivals, **changes)
    return value.detach(), grad(value, leaves)


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_a_row_without_a_condition_contributes_exactly_nothing(temperature):
    leaves, rivals = pieces(), chosen(12, 5)
    value, slopes = _value_and_slopes(leaves, rivals, temperature=temperature)
    absent = ~PRESENT
    assert (slopes[1][absent] == 0).all(), "of its condition; its image is still told apart from by the others"
    assert (slopes[0][absent] != 0).any(dim=1).all()
    changed = [leaf.clone() for leaf in leaves]
    changed[1][absent] = 7.0
    other, other_slopes = _value_and_slopes(changed, rivals, temperature=temperature)
    assert torch.equal(other, value)
    for which, (slope, other_slope) in enumerate(zip(slopes, other_slopes, strict=True)):
        assert torch.equal(slope, other_slope), which


def test_a_row_without_a_mismatched_condition_lends_none():
    leaves, rivals = pieces(), chosen(12, 5)
    value, slopes = _value_and_slopes(leaves, rivals)
    lacking = NEGATIVES == WHOSE
    assert lacking.sum() == 2 and (slopes[2][lacking] == 0).all() and (slopes[2][~lacking] != 0).any(dim=1).all()
    leaves[2][lacking] = 7.0
    other, other_slopes = _value_and_slopes(leaves, rivals)
    assert torch.equal(other, value)
    assert all(torch.equal(a, b) for a, b in zip(slopes, other_slopes, strict=True))


def test_the_same_identity_is_not_pulled_apart():
    """Of a group of one identity whose negatives are its own too, every row is certain: 0, and no gradient."""
    leaves, one = pieces(), torch.full((12,), 3)
    none = torch.zeros(12, 5, dtype=torch.bool)
    value, slopes = _value_and_slopes(leaves, none, identities=one, negative_identities=one)
    assert value == 0
    assert all((slope == 0).all() for slope in slopes)


@pytest.mark.parametrize("temperature", [1.0, 1e-3])
def test_where_nothing_is_left_to_tell_apart_gradients_are_finite(temperature):
    leaves = pieces()
    alone = torch.zeros(12, dtype=torch.bool)
    for present in (alone, torch.arange(12) == 4):
        value, slopes = _value_and_slopes(
            leaves, torch.zeros(12, 5, dtype=torch.bool), temperature=temperature,
            negative_identities=WHOSE, present=present,
        )  # fmt: skip
        assert value.isfinite() and all(slope.isfinite().all() for slope in slopes)
        if not present.any():
            assert value == 0 and all((slope == 0).all() for slope in slopes)


def test_the_mean_is_over_all_rows_so_shares_average_to_the_whole():
    leaves, rivals = pieces(), chosen(12, 5)
    whole = known(leaves, rivals)
    halves = []
    for rows in (slice(0, 6), slice(6, 12)):
        part = {name: value[rows] for name, value in KNOWN.items()}
        halves.append(known([*(leaf[rows] for leaf in leaves[:3]), leaves[3]], rivals[rows], **part))
    torch.testing.assert_close(torch.stack(halves).mean(), whole, rtol=1e-14, atol=0)
    assert halves[0] != halves[1]
    same = torch.ones(8, 1, dtype=torch.float64)
    one_in_four = torch.arange(8) % 4 == 0  # each meets no condition but its own; its condition meets 4 images
    assert math.isclose(contrastive(same, same, 1.0, 4, present=one_in_four), math.log(4) / 8, rel_tol=1e-12)


def test_gradients_with_identities_and_presence_agree_with_differences():
    rivals = chosen(12, 5)
    assert gradcheck(lambda *leaves: known(list(leaves), rivals, 0.5), [leaf.requires_grad_() for leaf in pieces()])
