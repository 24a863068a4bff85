import pytest
import torch

from t2f_dist.config.condition import OneHot, Stored
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.condition import Facts
from t2f_dist.models.stored_encoder import OneHotEncoder, StoredEncoder

LENGTHS = torch.tensor([1, 0, 1])


def test_a_stored_embedding_passes_unchanged():
    encoder = StoredEncoder(Stored(), Facts(embedding_size=5), BatchNorm())
    embeddings = torch.randn(3, 1, 5)
    assert encoder.output_size == 5
    assert torch.equal(encoder(embeddings, LENGTHS), embeddings[:, 0])
    assert torch.equal(encoder.double()(embeddings, LENGTHS), embeddings[:, 0].double())
    assert not encoder.state_dict()


def test_an_identity_is_one_unit():
    encoder = OneHotEncoder(OneHot(), Facts(num_identities=4), BatchNorm())
    assert encoder.output_size == 4
    classes = torch.tensor([[3], [0], [1]])
    expected = torch.eye(4)[[3, 0, 1]]
    assert torch.equal(encoder(classes, LENGTHS), expected)
    assert torch.equal(encoder.double()(classes, LENGTHS), expected.double())
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
