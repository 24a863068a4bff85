import pytest
import torch
from torch.nn import functional as F

from t2f_dist.config.condition import Waveform
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.facts import Facts
from t2f_dist.models.waveform_encoder import WaveformEncoder

RATE = 8000
SMALL = Waveform(seconds=0.1, channels=(4, 6, 8, 5), hidden_sizes=(12, 9), size=7)  # 800 samples, 200, 50, 13, 3
LENGTHS = torch.tensor([800, 1, 0, 333, 2, 799, 64, 5000])
WIDTH = 5000


def encoder_of(section: Waveform = SMALL, rate: int = RATE) -> WaveformEncoder:
    """In training, with weights and biases as if it had been trained."""
    torch.manual_seed(0)
    encoder = WaveformEncoder(section, Facts(sample_rate_hz=rate), BatchNorm(group_size=4)).double()
    for weight in encoder.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return encoder


def voices_of(width: int = WIDTH) -> torch.Tensor:
    """Noise of LENGTHS samples, padded to `width`."""
    noise = torch.rand(8, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    return F.pad(noise.where(torch.arange(WIDTH) < LENGTHS[:, None], 0), (0, width - WIDTH))


def assert_same(one: torch.Tensor, other: torch.Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


def test_padding_company_and_order_change_nothing_in_evaluation():
    encoder = encoder_of()
    encoder(voices_of(), LENGTHS)
    for norm in encoder.norms:
        norm.update(norm.statistics())
    encoder.eval()
    together = encoder(voices_of(), LENGTHS)
    assert together.shape == (8, encoder.output_size)
    for row, (voice, length) in enumerate(zip(voices_of(), LENGTHS, strict=True)):
        assert_same(encoder(voice[None, :length], length[None])[0], together[row])
    order = torch.tensor([2, 6, 0, 1, 7, 5, 3, 4])
    assert_same(encoder(voices_of()[order], LENGTHS[order]), together[order])
    distances = torch.cdist(together, together) + torch.eye(8)
    assert distances.min() > 1e-5  # and each voice is heard


@pytest.mark.parametrize("training", [True, False])
def test_what_lies_past_the_end_is_not_heard(training: bool):
    encoder = encoder_of().train(training)
    plain = encoder(voices_of(), LENGTHS)
    assert_same(encoder(voices_of(7000), LENGTHS), plain)
    garbage = voices_of()
    garbage[torch.arange(WIDTH) >= LENGTHS[:, None]] = 0.7
    assert_same(encoder(garbage, LENGTHS), plain, atol=0)
    assert_same(encoder(voices_of()[:, :800], LENGTHS.clamp(max=800)), plain)  # `seconds` are over


def test_the_statistics_of_a_group_do_not_depend_on_who_else_is_there():
    encoder = encoder_of()
    together = encoder(voices_of(), LENGTHS)
    shared = torch.cat([encoder(voices_of()[part], LENGTHS[part]) for part in (slice(4), slice(4, 8))])
    assert_same(shared, together)
    order = torch.tensor([2, 0, 3, 1, 4, 5, 7, 6])  # within the groups
    assert_same(encoder(voices_of()[order], LENGTHS[order]), together[order])


def test_one_who_does_not_speak_takes_no_part_in_the_statistics():
    """The three who speak, in a group of three."""
    four, three = encoder_of(), WaveformEncoder(SMALL, Facts(sample_rate_hz=RATE), BatchNorm(group_size=3)).double()
    three.load_state_dict(four.state_dict())
    speaking = torch.tensor([0, 1, 3])
    assert_same(four(voices_of()[:4], LENGTHS[:4])[speaking], three(voices_of()[speaking], LENGTHS[speaking]))
    silent = torch.zeros(4, dtype=torch.int64)
    assert four(voices_of()[:4], silent).isfinite().all()
    assert all(value.isfinite().all() for value in four.state_dict().values())


def test_a_full_voice_meets_the_layers_as_published():
    """Without masks: [pad (6, 7), convolution 15 of stride 4, batch normalisation, leaky rectifier 0.3], then ReLUs."""
    encoder = encoder_of()
    voices = voices_of()[[0, 7, 0, 7], :800] * torch.tensor([[1.0], [0.3], [0.1], [0.7]])
    x = (voices / voices.abs().amax(dim=1, keepdim=True))[:, None]
    x = torch.cat([x[:, :, :1], x[:, :, 1:] - 0.95 * x[:, :, :-1]], dim=2)
    for conv, norm in zip(encoder.convs, encoder.norms, strict=True):
        x = F.conv1d(F.pad(x, (6, 7)), conv.weight, stride=4)
        x = F.leaky_relu(F.batch_norm(x, None, None, norm.weight, norm.bias, training=True), 0.3)
    x = x.flatten(1)
    for linear in encoder.linears:
        x = F.linear(x, linear.weight, linear.bias).relu()
    assert_same(encoder(voices, torch.full((4,), 800)), x)


@pytest.mark.parametrize(("seconds", "width"), [(1.0, 4096), (4.0, 16384)])
def test_the_published_sizes(seconds: float, width: int):
    """wav2pix hears one second at 16 kHz, the seed that came before it four."""
    section = Waveform(seconds=seconds, channels=(16, 32, 128, 256, 512, 1024))
    encoder = WaveformEncoder(section, Facts(sample_rate_hz=16000), BatchNorm())
    assert [(layer.in_features, layer.out_features) for layer in encoder.linears] == [
        (width, 256),
        (256, 128),
        (128, 128),
    ]


def test_how_loud_a_recording_is_changes_nothing():
    encoder = encoder_of()
    assert_same(encoder(voices_of() / 8, LENGTHS), encoder(voices_of(), LENGTHS))


def test_gradients_reach_every_weight():
    encoder = encoder_of()
    encoder(voices_of(), LENGTHS).square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None and weight.grad.any(), name


def test_silence_and_a_batch_without_voices_are_finite():
    encoder = encoder_of()
    assert encoder(torch.zeros(4, 900).double(), torch.tensor([900, 1, 30, 900])).isfinite().all()
    for width in (0, 50):
        assert encoder(torch.ones(4, width), torch.zeros(4, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_it_stays_in_its_own_precision_under_autocast(training: bool):
    encoder = encoder_of().float().train(training)
    outside = encoder(voices_of().float(), LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = encoder(voices_of().float(), LENGTHS)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_voices_have_embeddings_of_about_unit_size():
    torch.manual_seed(0)
    encoder = WaveformEncoder(Waveform(seconds=0.5), Facts(sample_rate_hz=RATE), BatchNorm(group_size=8))
    embedding = encoder(voices_of().float(), torch.full((8,), WIDTH))
    assert 0.5 < embedding.square().mean().sqrt() < 2


@pytest.mark.parametrize(
    ("section", "rate", "message"),
    [
        (Waveform(), 0, r"condition\.speech needs voices, and the shards have none"),
        (Waveform(seconds=0.1), 8000, r"condition\.speech\.seconds 0\.1 is 800 .* 6 convolutions of stride 4: raise"),
    ],
)
def test_what_cannot_be_heard_is_refused(section: Waveform, rate: int, message: str):
    with pytest.raises(ValueError, match=message) as refused:
        encoder_of(section, rate)
    assert "\n" not in str(refused.value)
