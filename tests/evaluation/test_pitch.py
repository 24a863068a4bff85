import math

import numpy as np
import pytest

from t2f_dist.evaluation.pitch import pitch_hz
from t2f_dist.evaluation.portraits import HIGH_PITCH_HZ
from t2f_dist.portraits import voice
from t2f_dist.portraits.attributes import portrait


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize("hz", [90.0, 118.0, 160.0, 212.0, 260.0])
def test_a_tone_and_its_overtones_have_their_own_pitch(hz: float, rate: int):
    times = np.arange(rate) / rate
    for overtones in (1, 2, 9):
        numbers = np.arange(1, overtones + 1)[:, None]
        tone = (np.sin(2 * np.pi * hz * numbers * times) / numbers).sum(axis=0)
        assert pitch_hz((tone * 9000).astype(np.int16), rate) == pytest.approx(hz, rel=0.02)


def test_drawn_portraits_speak_at_their_pitch_and_men_and_women_apart():
    for index in range(60):
        person = portrait(4, index)
        heard = pitch_hz((voice.speak(person) * 32767).astype(np.int16), 16_000)
        assert heard == pytest.approx(voice.pitch_hz(person), rel=0.03)
        assert (heard > HIGH_PITCH_HZ) == (person.attributes["sex"] == "woman")


def test_silence_and_what_is_shorter_than_a_frame_have_none():
    assert math.isnan(pitch_hz(np.zeros(16_000, np.int16), 16_000))
    assert math.isnan(pitch_hz(np.ones(100, np.int16), 16_000))
