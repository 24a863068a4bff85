"""What of a voice is listened to."""

import io

import numpy as np
import pytest
import soundfile

from t2f_dist.data.speech import listen
from t2f_dist.shard.format import DamagedSample

RATE = 1000
VOICE = np.arange(700, dtype=np.int16)  # each sample says where it is


def flac(samples: np.ndarray = VOICE) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, RATE, format="FLAC", subtype="PCM_16")
    return stream.getvalue()


@pytest.mark.parametrize("start", [0.0, 0.3, 0.5, 1 - 2**-53])
def test_a_long_voice_is_cut_where_the_draw_says(start: float):
    part = listen(flac(), 0.2, start)
    assert part.dtype == np.int16
    assert len(part) == 200
    first = int(start * 501)  # 501 places are left
    assert np.array_equal(part, VOICE[first : first + 200])


def test_every_place_is_reached_equally_often():
    places = [listen(flac(VOICE[:12]), 0.01, start)[0] for start in np.arange(30) / 30]
    assert np.bincount(places).tolist() == [10, 10, 10]


@pytest.mark.parametrize("seconds", [0.7, 0.701, 60.0])
def test_a_voice_that_is_short_enough_is_whole(seconds: float):
    for start in (0.0, 0.99):
        assert np.array_equal(listen(flac(), seconds, start), VOICE)


def test_at_least_one_sample_is_heard():
    assert listen(flac(), 1e-9, 0.0).tolist() == [0]


@pytest.mark.parametrize("content", [b"", b"no voice", flac()[:60], b"fLaC" + bytes(80), flac()[:-400]])
def test_what_is_no_voice_is_damage(content: bytes):
    with pytest.raises(DamagedSample, match="speech: "):
        listen(content, 60.0, 0.0)
