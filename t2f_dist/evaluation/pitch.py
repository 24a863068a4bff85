"""How high a voice speaks."""

from __future__ import annotations

import numpy as np

FRAME_SECONDS = 0.05
LOWEST_HZ, HIGHEST_HZ = 75.0, 300.0
NEAR = 0.9  # of the highest peak: the first that reaches it is the period, not a multiple of it


def pitch_hz(voice: np.ndarray, sample_rate_hz: int) -> float:
    """The median over frames of 50 ms of the fundamental frequency, by autocorrelation; nan for silence.

    voice: [T] at least a frame long, else nan.
    """
    size = round(FRAME_SECONDS * sample_rate_hz)
    frames = voice[: len(voice) // size * size].astype(np.float64).reshape(-1, size)
    frames = frames[np.abs(frames).max(axis=1, initial=0) > 0]
    if not len(frames):
        return float("nan")
    power = np.abs(np.fft.rfft(frames - frames.mean(axis=1, keepdims=True), 2 * size)) ** 2
    likeness = np.fft.irfft(power)[:, :size] / np.arange(size, 0, -1)  # [frames, lags]: a mean over what overlaps
    first, last = round(sample_rate_hz / HIGHEST_HZ), min(size - 1, round(sample_rate_hz / LOWEST_HZ))
    heard = likeness[:, first : last + 1]
    inner = heard[:, 1:-1]
    peaks = (inner >= heard[:, :-2]) & (inner >= heard[:, 2:]) & (inner >= NEAR * heard.max(axis=1, keepdims=True))
    periods = [first + 1 + int(row.argmax()) for row in peaks if row.any()]
    return float(sample_rate_hz / np.median(periods)) if periods else float("nan")
