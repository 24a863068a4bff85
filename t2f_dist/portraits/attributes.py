"""What a portrait is: eight named attributes, and the continuous jitter that gives one combination many pictures.

Everything is a pure function of (seed, index). Only uniform doubles of a counter-based generator are used, no
distribution whose algorithm a library might change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "background": ("blue", "green", "yellow", "red", "purple", "grey"),
    "skin": ("light", "tan", "brown", "dark"),
    "hair_colour": ("black", "brown", "blond", "red", "grey", "white"),
    "hair_style": ("short", "long", "curly", "bald"),
    "glasses": ("none", "glasses"),
    "beard": ("none", "beard"),
    "mouth": ("closed", "smile"),
    "sex": ("man", "woman"),
}
"""Attribute -> its values, in the order of their labels (the label of a value is its place in the tuple)."""

FREQUENCIES: dict[str, tuple[float, ...]] = {
    **{name: (1 / len(values),) * len(values) for name, values in ATTRIBUTES.items()},
    "hair_style": (0.28, 0.28, 0.28, 0.16),
}
"""Attribute -> probability of each value. The draws are independent, with two exceptions: a beard is drawn for men
only, so its share over all portraits is half of that stated, and a bald portrait has no hair colour to speak of."""

ABSENT = -1
"""The label of an attribute that a portrait does not have: the hair colour of the bald."""

JITTER = (
    "head_size", "head_x", "head_y", "head_width", "jaw", "tilt", "gaze_x", "gaze_y", "eye_size", "eye_gap",
    "brow_height", "brow_tilt", "nose_size", "mouth_width", "mouth_height", "neck", "shoulders",
    "hair_volume", "hair_length", "parting", "background_shade", "background_hue", "skin_shade", "skin_hue",
    "hair_shade", "hair_hue", "iris", "clothes_hue", "clothes_shade", "clothes_cut", "earrings", "frame",
    "frame_colour", "light", "blush", "beard_length", "curl", "pitch", "speed", "vowel_1", "vowel_2",
    "vowel_3", "breath", "intonation",
)  # fmt: skip
"""Names of the continuous jitter, each uniform in [-1, 1) and independent of the attributes."""

_STREAMS = {"portrait": 1, "captions": 2, "voice": 3}


@dataclass(frozen=True)
class Portrait:
    """One person. `attributes` has every key of ATTRIBUTES; `jitter` has every key of JITTER, values in [-1, 1).

    A bald portrait keeps a value under `hair_colour`, because its brows and beard have a colour, but that value is
    neither named in captions, nor part of the identity, nor counted: see `labels`.
    """

    seed: int
    index: int
    attributes: dict[str, str]
    jitter: dict[str, float]

    @property
    def bald(self) -> bool:
        return self.attributes["hair_style"] == "bald"

    @property
    def identity(self) -> str:
        """The combination of attributes, e.g. `red-dark-black-short-none-beard-smile-man`; a split by identity keeps
        the combinations of the test set out of training."""
        values = {**self.attributes, **({"hair_colour": "any"} if self.bald else {})}
        return "-".join(values[name] for name in ATTRIBUTES)

    @property
    def labels(self) -> dict[str, int]:
        """Attribute -> label, ABSENT for the hair colour of the bald."""
        labels = {name: values.index(self.attributes[name]) for name, values in ATTRIBUTES.items()}
        return {**labels, **({"hair_colour": ABSENT} if self.bald else {})}


def stream(seed: int, name: str, index: int) -> np.random.Generator:
    """The random numbers of one purpose for one portrait: Philox keyed by (seed, purpose), its counter by the index.

    Raises ValueError when seed or index is not in [0, 2**63).
    """
    for label, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**63:
            raise ValueError(f"{label} must be between 0 and 2**63 - 1, got {value}")
    return np.random.Generator(np.random.Philox(key=[seed, _STREAMS[name]], counter=[0, 0, 0, index]))


def portrait(seed: int, index: int) -> Portrait:
    """The portrait at `index` of the corpus `seed`: a pure function of the two. Raises ValueError as `stream` does."""
    draws = stream(seed, "portrait", index).random(len(ATTRIBUTES) + len(JITTER))
    attributes = {}
    for (name, values), draw in zip(ATTRIBUTES.items(), draws, strict=False):
        edges = np.cumsum(FREQUENCIES[name])[:-1]
        attributes[name] = values[int(np.searchsorted(edges, draw, side="right"))]
    if attributes["sex"] == "woman":
        attributes["beard"] = "none"
    jitter: dict[str, float] = dict(zip(JITTER, (draws[len(ATTRIBUTES) :] * 2 - 1).tolist(), strict=True))
    return Portrait(seed, index, attributes, jitter)
