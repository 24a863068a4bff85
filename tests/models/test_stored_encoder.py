import pytest
import torch

from t2f_dist.config.condition import OneHot, Stored
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.facts import Facts
from t2f_dist.models.one_hot_encoder import OneHotEncoder
from t2f_dist.models.stored_encoder import StoredEncoder

LENGTHS = torch.tensor([1, 0, 1])


def test_a_stored_embedding_keeps_its_direction_and_is_as_loud_as_other_modalities():
    encoder = StoredEncoder(Stored(), Facts(embedding_size=5), BatchNorm())
    assert encoder.output_size == 5
    assert not encoder.state_dict()
    embeddings = torch.randn(3, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for factor in (1e-3, 0.1, 1.0, 50.0):
        rows = encoder(factor * embeddings, LENGTHS)
        torch.testing.assert_close(rows.square().mean(dim=1), torch.ones(3, dtype=torch.float64), rtol=1e-5, atol=0)
        alike = torch.nn.functional.cosine_similarity(rows, embeddings[:, 0])
        torch.testing.assert_close(alike, torch.ones(3, dtype=torch.float64))
    unit = torch.nn.functional.normalize(embeddings, dim=2)
    torch.testing.assert_close(encoder(unit, LENGTHS), unit[:, 0] * 5**0.5)


def test_a_row_of_zeros_stays_finite():
    encoder = StoredEncoder(Stored(), Facts(embedding_size=5), BatchNorm())
    assert torch.equal(encoder(torch.zeros(2, 1, 5), LENGTHS[:2]), torch.zeros(2, 5))


def test_an_identity_is_one_unit():
    encoder = OneHotEncoder(OneHot(), Facts(num_identities=4), BatchNorm())
    assert encoder.output_size == 4
    classes = torch.tensor([[3], [0], [1]])
    expected = torch.eye(4)[[3, 0, 1]]
    assert torch.equal(encoder(classes, LENGTHS), expected)
    assert not encoder.state_dict()


@pytest.mark.parametrize("garbage", [-1, 99])
def test_the_class_of_one_who_has_none_is_not_looked_at(garbage: int):
    encoder = OneHotEncoder(OneHot(), Facts(num_identities=4), BatchNorm())
    assert torch.equal(encoder(torch.tensor([[3], [garbage], [1]]), LENGTHS)[[0, 2]], torch.eye(4)[[3, 1]])
    with pytest.raises(RuntimeError):
        encoder(torch.tensor([[garbage], [0], [1]]), LENGTHS)


def test_shards_without_them_are_refused():
    with pytest.raises(ValueError, match=r"`t2f-dist shard --embed MODEL_DIR`"):
        StoredEncoder(Stored(), Facts(num_words=5), BatchNorm())
    with pytest.raises(ValueError, match=r"condition\.identity needs identities, and the shards have none"):
        OneHotEncoder(OneHot(), Facts(num_words=5), BatchNorm())
