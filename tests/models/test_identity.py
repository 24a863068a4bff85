"""The classifier over identities."""

import pytest
import torch

from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.identity import HIDDEN, IdentityHead


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def head(num_identities: int = 4) -> IdentityHead:
    torch.manual_seed(0)
    return IdentityHead(5, num_identities, BatchNorm(group_size=4)).double()


def test_its_size_is_that_of_two_linear_layers_and_a_normalisation():
    assert sum(p.numel() for p in head().parameters()) == 5 * HIDDEN + 2 * HIDDEN + HIDDEN * 4 + 4


def test_a_map_of_features_counts_by_its_mean_over_pixels():
    features = noise(8, 5, 4, 4)
    torch.testing.assert_close(head()(features), head()(features.mean(dim=(2, 3))))
    assert head()(features).shape == (8, 4)


def test_statistics_are_of_the_group_alone():
    whole = head()(noise(8, 5))
    torch.testing.assert_close(torch.cat([head()(part) for part in noise(8, 5).split(4)]), whole)
    changed = noise(8, 5)
    changed[4] += 1
    again = head()(changed)
    assert torch.equal(again[:4], whole[:4])
    assert not torch.isclose(again[4:], whole[4:]).any()


def test_scores_are_of_float32_at_least():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head().float()(noise(8, 5).float()).dtype == torch.float32


@pytest.mark.parametrize("num", [0, 1])
def test_one_identity_is_told_from_nobody(num: int):
    with pytest.raises(ValueError, match=rf"loss\.identity tells {num} identities apart: use shards"):
        head(num)


def test_it_learns_who_is_who():
    features, who = noise(16, 5), torch.arange(16) % 4
    network = head()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(features), who).backward()
        optimizer.step()
    assert (network(features).argmax(dim=1) == who).all()
