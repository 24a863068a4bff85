from functools import cache

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from t2f_dist.config.condition import LogMel
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.facts import Facts
from t2f_dist.models.speech_encoder import LogMelEncoder
from t2f_dist.portraits.attributes import portrait
from t2f_dist.portraits.voice import speak

RATE = 8000
SMALL = LogMel(num_mels=20, channels=(12, 8), hidden_size=6)
SECTIONS = [SMALL, SMALL.model_copy(update={"channels": ()}), SMALL.model_copy(update={"hop_seconds": 0.03})]
LENGTHS = torch.tensor([4000, 1, 199, 200, 201, 0, 2777])  # a window is of 200 samples


def encoder_of(section: LogMel, rate: int = RATE) -> LogMelEncoder:
    torch.manual_seed(0)
    return LogMelEncoder(section, Facts(sample_rate_hz=rate), BatchNorm()).double()


def voices_of(width: int = 4000) -> torch.Tensor:
    """Noise of LENGTHS samples, padded to `width`."""
    noise = torch.rand(len(LENGTHS), 4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    padded = torch.zeros(len(LENGTHS), width, dtype=torch.float64)
    padded[:, :4000] = noise.where(torch.arange(4000) < LENGTHS[:, None], 0)
    return padded


@cache
def spoken(first: int, num: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """float32 voices [num, T] of drawn people, their lengths, and 1 for each woman, else 0."""
    people = [portrait(3, index) for index in range(first, first + num)]
    voices = [torch.from_numpy(speak(person, RATE)) for person in people]
    women = torch.tensor([float(person.attributes["sex"] == "woman") for person in people])
    return pad_sequence(voices, batch_first=True), torch.tensor([len(voice) for voice in voices]), women


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_padding_company_and_order_change_nothing(section: LogMel):
    encoder = encoder_of(section)
    together = encoder(voices_of(), LENGTHS)
    assert together.shape == (7, encoder.output_size)
    for row, (voice, length) in enumerate(zip(voices_of(), LENGTHS, strict=True)):
        if length:
            alone = encoder(voice[None, :length], length[None])
            torch.testing.assert_close(alone[0], together[row], atol=1e-12, rtol=0)
    torch.testing.assert_close(encoder(voices_of(9001), LENGTHS), together, atol=1e-12, rtol=0)
    order = torch.tensor([2, 6, 0, 1, 5, 3, 4])
    torch.testing.assert_close(encoder(voices_of()[order], LENGTHS[order]), together[order], atol=1e-12, rtol=0)
    shared = torch.cat([encoder(voices_of()[part], LENGTHS[part]) for part in (slice(3), slice(3, 7))])
    torch.testing.assert_close(shared, together, atol=1e-12, rtol=0)
    garbage = voices_of(5000)
    garbage[torch.arange(5000) >= LENGTHS[:, None]] = 0.7
    torch.testing.assert_close(encoder(garbage, LENGTHS), encoder(voices_of(5000), LENGTHS), atol=0, rtol=0)


def test_what_a_voice_says_changes_its_embedding():
    """The counterpart of the test above: what lies in a whole window is heard, the last one included."""
    encoder = encoder_of(SMALL)
    other = voices_of()
    other[0, 3900] += 0.9  # the last window is of 3760 to 3960
    other[2, 100] += 0.9
    other[6, 2760:] = 0.0  # of 2777, past the last whole window
    changed = (encoder(other, LENGTHS) - encoder(voices_of(), LENGTHS)).abs().amax(dim=1)
    assert (changed > 1e-4).tolist() == [True, False, True, *[False] * 4]
    assert not changed[[1, 3, 4, 5, 6]].any()


def test_the_level_of_a_recording_is_taken_off_and_its_spectrum_is_not():
    encoder = encoder_of(SMALL)
    voices, lengths, _ = spoken(0, 8)
    loud, quiet = encoder._frames(voices.double(), lengths)[0], encoder._frames(voices.double() / 2, lengths)[0]
    assert (loud - quiet).square().mean() < 0.01 * loud.square().mean()
    _, bands, frames = loud.shape
    torch.testing.assert_close(loud.sum(dim=(1, 2)), torch.zeros(8).double(), atol=1e-9 * bands * frames, rtol=0)
    assert loud.mean(dim=2).std() > 0.3  # of the bands


def test_voices_have_embeddings_of_about_unit_size():
    voices, lengths, _ = spoken(0, 32)
    for seed in range(3):
        torch.manual_seed(seed)
        encoder = LogMelEncoder(LogMel(), Facts(sample_rate_hz=RATE), BatchNorm())
        assert 0.5 < encoder(voices, lengths).square().mean().sqrt() < 1.5


def test_gradients_reach_every_weight():
    encoder = encoder_of(SMALL)
    encoder(voices_of(), LENGTHS).square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None and weight.grad.any(), name


def test_silence_and_a_batch_without_voices_are_finite():
    encoder = encoder_of(SMALL)
    assert encoder(torch.zeros(2, 3000).double(), torch.tensor([3000, 1])).isfinite().all()
    for width in (0, 50):
        assert encoder(torch.ones(3, width), torch.zeros(3, dtype=torch.int64)).isfinite().all()


def test_it_stays_in_its_own_precision_under_autocast():
    encoder = encoder_of(SMALL).float()
    outside = encoder(voices_of().float(), LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = encoder(voices_of().float(), LENGTHS)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_it_learns_who_speaks():
    """After a few steps it tells men from women whom it has not heard."""
    torch.manual_seed(0)
    encoder = LogMelEncoder(LogMel(channels=(32, 32), hidden_size=16), Facts(sample_rate_hz=RATE), BatchNorm())
    score = torch.nn.Linear(encoder.output_size, 1)
    optimizer = torch.optim.Adam([*encoder.parameters(), *score.parameters()], lr=3e-3)
    voices, lengths, women = spoken(0, 192)
    for step in range(30):
        part = slice(step * 32 % 192, step * 32 % 192 + 32)
        logits = score(encoder(voices[part], lengths[part]))[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, women[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    voices, lengths, women = spoken(192, 200)
    with torch.no_grad():
        heard = score(encoder(voices, lengths))[:, 0] > 0
    assert (heard == (women > 0)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("section", "rate", "message"),
    [
        (LogMel(), 0, r"condition\.speech needs voices, and the shards have none"),
        (LogMel(window_seconds=0.004), 16000, r"64 audio samples at 16000 Hz, too few to tell 40 mel bands apart"),
        (
            LogMel(window_seconds=1.5),
            16000,
            r"window_seconds 1\.5 is 24000 audio samples .* lower it to 1\.024",
        ),
        (LogMel(num_mels=120), 16000, r"window_seconds 0\.025 .* 120 mel bands apart: raise window_seconds or lower"),
        (LogMel(hop_seconds=0.001), 400, r"hop_seconds 0\.001 .* raise it to 0\.0025 or more"),
    ],
)
def test_what_cannot_be_heard_is_refused(section: LogMel, rate: int, message: str):
    with pytest.raises(ValueError, match=message) as refused:
        encoder_of(section, rate)
    assert "\n" not in str(refused.value)
