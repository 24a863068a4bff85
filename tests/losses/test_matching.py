import math

import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from t2f_dist.losses.matching import contrastive, kl_to_unit_gaussian

generator = torch.Generator().manual_seed(0)


def unit(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def test_kl_is_that_of_the_distributions():
    mean, log_variance = torch.randn(2, 5, 7, dtype=torch.float64, generator=generator)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    torch.testing.assert_close(kl_to_unit_gaussian(mean, log_variance), expected)
    zeros = torch.zeros(3, 4)
    assert kl_to_unit_gaussian(zeros, zeros) == 0


def test_contrastive_is_the_symmetric_cross_entropy_written_out():
    images, captions = unit(6, 4), unit(6, 4)
    expected = 0.0
    for group in (range(3), range(3, 6)):
        for i in group:
            scores = [math.exp(float(images[i] @ captions[j]) / 0.2) for j in group]
            back = [math.exp(float(images[j] @ captions[i]) / 0.2) for j in group]
            own = math.exp(float(images[i] @ captions[i]) / 0.2)
            expected -= 0.5 * (math.log(own / sum(scores)) + math.log(own / sum(back))) / 6
    assert math.isclose(contrastive(images, captions, 0.2, group_size=3), expected, rel_tol=1e-12)


def test_without_information_it_is_the_logarithm_of_the_rivals():
    same = torch.ones(8, 1, dtype=torch.float64)
    assert math.isclose(contrastive(same, same, 1.0, 4), math.log(4), rel_tol=1e-12)
    with_negative = contrastive(same, same, 1.0, 4, negatives=same)
    assert math.isclose(with_negative, 0.5 * (math.log(8) + math.log(4)), rel_tol=1e-12)


def test_groups_do_not_see_each_other_so_shares_average_to_the_whole():
    images, captions, negatives = unit(12, 4), unit(12, 4), unit(12, 4)
    whole = contrastive(images, captions, 0.1, 3, negatives)
    shares = [
        contrastive(*parts[:2], 0.1, 3, parts[2])
        for parts in zip(images.split(6), captions.split(6), negatives.split(6), strict=True)
    ]
    torch.testing.assert_close(whole, torch.stack(shares).mean())


def test_a_nearer_negative_costs_more():
    images = captions = unit(4, 6)
    far, near = contrastive(images, captions, 0.1, 4, -captions), contrastive(images, captions, 0.1, 4, captions)
    assert near > far + 0.3
