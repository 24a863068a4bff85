import pytest
import torch

from t2f_dist.config.schema import TextEncoder as Settings
from t2f_dist.models.text_encoder import TextEncoder

SETTINGS = [
    Settings(pooling=pooling, bidirectional=bidirectional, num_layers=layers, embedding_size=8, hidden_size=6)
    for pooling in ("mean", "last")
    for bidirectional, layers in ((True, 1), (False, 3))
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_padding_and_company_change_nothing(settings):
    torch.manual_seed(0)
    encoder = TextEncoder(settings, 20).double()
    captions = [torch.randint(2, 20, (length,)) for length in (1, 9, 4)]
    alone = torch.cat([encoder(caption[None], torch.tensor([len(caption)])) for caption in captions])
    padded = torch.zeros(3, 30, dtype=torch.int64)
    for row, caption in zip(padded, captions, strict=True):
        row[: len(caption)] = caption
    together = encoder(padded, torch.tensor([1, 9, 4]))
    assert together.shape == (3, settings.output_size)
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)
    padded[0, 5] = 7  # past the end of the first caption
    torch.testing.assert_close(encoder(padded, torch.tensor([1, 9, 4])), together, atol=0, rtol=0)


def test_it_stays_in_its_own_precision_under_autocast():
    encoder = TextEncoder(Settings(), 20)
    tokens, lengths = torch.randint(2, 20, (2, 5)), torch.tensor([5, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = encoder(tokens, lengths)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, encoder(tokens, lengths))
