import torch

from t2f_dist.config.loss import Contrastive
from t2f_dist.models.contrastive import ContrastiveHead


def head() -> ContrastiveHead:
    torch.manual_seed(0)
    return ContrastiveHead(Contrastive(size=6), feature_size=5, embedding_size=4)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_features_and_conditions_lie_on_one_unit_sphere():
    for found in (head().images(noise(7, 5)), head().images(noise(7, 5, 4, 4)), head().conditions(noise(7, 4))):
        assert found.shape == (7, 6)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(7))


def test_a_map_of_features_counts_by_its_mean_over_pixels():
    features = noise(7, 5, 4, 4)
    torch.testing.assert_close(head().images(features), head().images(features.mean(dim=(2, 3))))
    shuffled = features.flatten(2)[:, :, torch.randperm(16, generator=torch.Generator().manual_seed(2))]
    torch.testing.assert_close(head().images(shuffled.view_as(features)), head().images(features))


def test_the_length_of_an_embedding_does_not_count():
    embedding = noise(7, 4)
    torch.testing.assert_close(head().conditions(embedding), head().conditions(3 * embedding))  # no bias yet


def test_unit_length_is_of_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head().images(noise(7, 5))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(7))
