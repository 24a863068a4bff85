"""Voices: the bytes of a FLAC -> the part of it that is listened to."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from t2f_dist.shard.format import DamagedSample


def listen(content: bytes, seconds: float, start: float) -> np.ndarray:
    """Up to `seconds` of a voice. -> int16 [T]

    start: in [0, 1), where in a longer voice the part begins, as a share of what is left over.
    Raises DamagedSample where it cannot be decoded.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            num = min(file.frames, max(1, round(seconds * file.samplerate)))
            file.seek(int(start * (file.frames - num + 1)))
            samples = file.read(num, dtype="int16", always_2d=True)[:, 0]
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DamagedSample(f"speech: cannot be decoded ({error})") from None
    if not len(samples):
        raise DamagedSample("speech: it holds no sound")
    return samples
