import dataclasses

import numpy as np
import pytest

from t2f_dist.portraits.attributes import portrait
from t2f_dist.portraits.voice import formant_scale, pitch_hz, speak

PEOPLE = [portrait(6, index) for index in range(80)]


def heard_pitch_hz(voice: np.ndarray, rate: int) -> float:
    """The highest peak of the autocorrelation between 70 and 400 Hz."""
    correlation = np.fft.irfft(np.abs(np.fft.rfft(voice, 2 * len(voice))) ** 2)
    low, high = rate // 400, rate // 70
    return rate / (low + int(np.argmax(correlation[low:high])))


def test_the_pitch_that_is_heard_tells_the_sex():
    for person in PEOPLE:
        heard = heard_pitch_hz(speak(person), 16000)
        assert heard == pytest.approx(pitch_hz(person), rel=0.06)
        assert (heard > 155) == (person.attributes["sex"] == "woman")


def test_larger_heads_have_lower_formants():
    """The centre of the spectrum of the same person with a small, a middling and a large head."""
    for person in PEOPLE[:20]:
        centres = []
        for size in (-1.0, 0.0, 1.0):
            other = dataclasses.replace(person, jitter={**person.jitter, "head_size": size})
            power = np.abs(np.fft.rfft(speak(other)))
            centres.append((power * np.arange(len(power))).sum() / power.sum())
        assert centres[0] > centres[1] > centres[2]
        assert formant_scale(dataclasses.replace(person, jitter={**person.jitter, "head_size": 0.0})) in (1.0, 1.17)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
def test_any_rate(rate):
    for person in PEOPLE[:10]:
        voice = speak(person, rate)
        assert voice.dtype == np.float32
        assert 0.6 <= len(voice) / rate <= 1.4
        assert np.abs(voice).max() == pytest.approx(0.7)
        assert np.abs(voice[[0, -1]]).max() < 0.01  # no click
        assert abs(voice.mean()) < 0.01  # no steady pressure


def test_a_voice_is_a_function_of_the_portrait():
    assert (speak(PEOPLE[0]) == speak(portrait(6, 0))).all()
    assert len({speak(person).tobytes() for person in PEOPLE}) == len(PEOPLE)
    with pytest.raises(ValueError, match="sample_rate_hz must be at least 2000"):
        speak(PEOPLE[0], 100)
