import pytest
import torch

from t2f_dist.config.condition import Lstm
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.facts import Facts
from t2f_dist.models.text_encoder import TextEncoder

SECTIONS = [
    Lstm(pooling=pooling, bidirectional=bidirectional, num_layers=layers, embedding_size=8, hidden_size=6)
    for pooling in ("mean", "last")
    for bidirectional, layers in ((True, 1), (False, 3))
]
LENGTHS = torch.tensor([1, 9, 4, 0])


def encoder_of(section: Lstm) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(section, Facts(num_words=20), BatchNorm()).double()


def captions_of(width: int = 30) -> torch.Tensor:
    """Captions of LENGTHS words, padded to `width`."""
    words = torch.randint(2, 20, (len(LENGTHS), 9), generator=torch.Generator().manual_seed(1))
    padded = torch.zeros(len(LENGTHS), width, dtype=torch.int64)
    padded[:, :9] = words.where(torch.arange(9) < LENGTHS[:, None], 0)
    return padded


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_padding_company_and_order_change_nothing(section: Lstm):
    encoder, padded = encoder_of(section), captions_of()
    together = encoder(padded, LENGTHS)
    assert together.shape == (4, encoder.output_size)
    present = [(row[:length], length) for row, length in zip(padded, LENGTHS, strict=True) if length]
    alone = torch.cat([encoder(caption[None], length[None]) for caption, length in present])
    torch.testing.assert_close(together[:3], alone, atol=1e-12, rtol=0)
    order = torch.tensor([2, 3, 0, 1])
    torch.testing.assert_close(encoder(padded[order], LENGTHS[order]), together[order], atol=1e-12, rtol=0)
    shared = torch.cat([encoder(padded[:2], LENGTHS[:2]), encoder(padded[2:], LENGTHS[2:])])
    torch.testing.assert_close(shared, together, atol=1e-12, rtol=0)
    garbage = captions_of()
    garbage[0, 5], garbage[1, 9:] = 7, 3
    torch.testing.assert_close(encoder(garbage, LENGTHS), together, atol=0, rtol=0)


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_gradients_reach_every_weight(section: Lstm):
    encoder = encoder_of(section)
    encoder(captions_of(), LENGTHS)[:3].square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None and weight.grad.any(), name


def test_a_batch_without_captions_is_finite():
    encoder = encoder_of(Lstm())
    for width in (0, 5):
        assert encoder(torch.zeros(3, width, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)).isfinite().all()


def test_it_stays_in_its_own_precision_under_autocast():
    encoder = encoder_of(Lstm()).float()
    outside = encoder(captions_of(), LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = encoder(captions_of(), LENGTHS)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_shards_without_captions_are_refused():
    with pytest.raises(ValueError, match=r"condition\.caption needs captions, and the shards have none"):
        TextEncoder(Lstm(), Facts(sample_rate_hz=16000), BatchNorm())
