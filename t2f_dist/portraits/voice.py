"""A portrait speaking: a pulse train through a few formants, so that voice and face agree.

The source-filter model (Fant, Acoustic Theory of Speech Production, 1960): the fundamental is set by the sex and a
jitter, the formants of a few vowels in a row (mean values of Peterson and Barney, JASA 24, 1952, men) are scaled by
sex and inversely by the size of the head, as they are by the length of a vocal tract. No words are spoken.
"""

from __future__ import annotations

import numpy as np

from t2f_dist.portraits.attributes import Portrait, stream

VOWELS_HZ: dict[str, tuple[float, float, float]] = {
    "i": (270.0, 2290.0, 3010.0),
    "e": (530.0, 1840.0, 2480.0),
    "a": (730.0, 1090.0, 2440.0),
    "o": (570.0, 840.0, 2410.0),
    "u": (300.0, 870.0, 2240.0),
}
BANDWIDTHS_HZ = (70.0, 110.0, 170.0)
PITCH_HZ = {"man": 118.0, "woman": 212.0}
TRACT = {"man": 1.0, "woman": 1.17}


def pitch_hz(portrait: Portrait) -> float:
    """Mean fundamental of the voice: 118 Hz for men, 212 Hz for women, times 2 to the power of +-0.3."""
    return PITCH_HZ[portrait.attributes["sex"]] * 2.0 ** (0.3 * portrait.jitter["pitch"])


def formant_scale(portrait: Portrait) -> float:
    """Factor on the formants of VOWELS_HZ: higher for women, lower for large heads (+-8 %)."""
    return TRACT[portrait.attributes["sex"]] / (1 + 0.08 * portrait.jitter["head_size"])


def duration_seconds(portrait: Portrait) -> float:
    """Length of the utterance, 0.6 to 1.4 s."""
    return 1.0 - 0.4 * portrait.jitter["speed"]


def speak(portrait: Portrait, sample_rate_hz: int = 16000) -> np.ndarray:
    """float32 [T] in [-1, 1]: three vowels with smooth onsets, falling or rising in pitch.

    Raises ValueError when sample_rate_hz is below 2000.
    """
    if sample_rate_hz < 2000:
        raise ValueError(f"sample_rate_hz must be at least 2000, got {sample_rate_hz}")
    jitter = portrait.jitter
    samples = round(duration_seconds(portrait) * sample_rate_hz)
    time = (np.arange(samples) / samples).astype(np.float32)

    melody = 1 + 0.06 * jitter["intonation"] * (1 - 2 * time) + 0.015 * np.sin(2 * np.pi * 5.5 * time)
    cycles = np.floor(np.cumsum(pitch_hz(portrait) * melody) / sample_rate_hz)
    source = (np.diff(cycles, prepend=-1.0) > 0).astype(np.float32)
    noise = stream(portrait.seed, "voice", portrait.index).random(samples) - 0.5
    source += (noise * (0.03 + 0.02 * jitter["breath"])).astype(np.float32)

    length = -(-(samples + sample_rate_hz // 20) // 2048) * 2048  # padded by 50 ms, so that nothing wraps around
    spectrum = np.fft.rfft(source, length)
    loudness = (0.75 + 0.25 * np.cos(2 * np.pi * (3 * time - 0.5))).astype(np.float32)  # one swell a vowel
    voice = np.zeros(samples, dtype=np.float32)
    for place in range(3):
        vowel = tuple(VOWELS_HZ)[int((jitter[f"vowel_{place + 1}"] * 0.5 + 0.5) * len(VOWELS_HZ))]
        response = _tract(vowel, formant_scale(portrait), sample_rate_hz, length)
        share = np.clip(2 - np.abs(time * 3 - 0.5 - place) * 2, 0, 1)  # neighbouring vowels overlap
        voice += share * loudness * np.fft.irfft(spectrum * response, length)[:samples]
    edge = round(0.03 * sample_rate_hz)
    fade = (0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)).astype(np.float32)
    voice[:edge] *= fade
    voice[-edge:] *= fade[::-1]
    return voice * (np.float32(0.7) / np.abs(voice).max())


def _tract(vowel: str, scale: float, sample_rate_hz: int, length: int) -> np.ndarray:
    """Response [length // 2 + 1] of a vocal tract: second-order resonances in series.

    Resonances above the Nyquist frequency are left out.
    """
    frequency = (np.arange(length // 2 + 1) * (sample_rate_hz / length)).astype(np.float32)
    square = frequency * frequency
    # the slope of the glottal source and the radiation at the lips, which lets no steady pressure pass
    response = square / (square + np.float32(60.0**2)) / (1 + frequency / np.float32(250.0))
    for centre, width in zip(VOWELS_HZ[vowel], BANDWIDTHS_HZ, strict=True):
        pole = centre * scale
        if pole < sample_rate_hz / 2:
            resonance = np.empty(len(frequency), dtype=np.complex64)
            resonance.real = np.float32(pole**2) - square
            resonance.imag = np.float32(width) * frequency
            response = response * (np.float32(pole**2) / resonance)
    return response
