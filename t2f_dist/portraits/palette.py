"""The colours behind the names of attributes, jittered so that a name covers a range of shades.

Colours are (red, green, blue), floats in 0...255.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

from t2f_dist.portraits.attributes import Portrait

Colour = tuple[float, float, float]

BACKGROUND: dict[str, Colour] = {
    "blue": (84, 138, 204),
    "green": (98, 166, 104),
    "yellow": (232, 196, 84),
    "red": (198, 76, 74),
    "purple": (140, 98, 182),
    "grey": (160, 163, 168),
}
SKIN: dict[str, Colour] = {
    "light": (248, 212, 190),
    "tan": (222, 168, 124),
    "brown": (164, 108, 72),
    "dark": (98, 62, 46),
}
HAIR: dict[str, Colour] = {
    "black": (34, 30, 36),
    "brown": (104, 64, 38),
    "blond": (232, 194, 104),
    "red": (190, 78, 30),
    "grey": (134, 136, 144),
    "white": (238, 237, 234),
}
IRIS: tuple[Colour, ...] = ((92, 58, 36), (66, 112, 150), (78, 122, 84), (112, 86, 52))
FRAME: tuple[Colour, ...] = ((28, 28, 34), (66, 40, 30), (34, 44, 84), (96, 26, 40))
WHITE: Colour = (250, 249, 246)
INK: Colour = (38, 26, 26)
GOLD: Colour = (226, 184, 74)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` moved towards `b` by `share` in 0...1."""
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def darker(colour: Colour, share: float) -> Colour:
    """Towards a warm black: shadows on skin and hair are not grey."""
    return mix(colour, (24, 12, 20), share)


def lighter(colour: Colour, share: float) -> Colour:
    return mix(colour, (255, 252, 244), share)


def shift(colour: Colour, shade: float, hue: float, amount: float) -> Colour:
    """A shade of the same name: brighter by `shade`, warmer by `hue` (both in [-1, 1]), at most `amount` of each."""
    gain = 1 + shade * amount
    warm = hue * amount * 60
    red, green, blue = (channel * gain for channel in colour)
    return (min(255, max(0, red + warm)), min(255, max(0, green)), min(255, max(0, blue - warm)))


@dataclass(frozen=True)
class Palette:
    """The colours of one portrait."""

    background: Colour
    skin: Colour
    hair: Colour
    brow: Colour
    lips: Colour
    iris: Colour
    clothes: Colour
    frame: Colour


def palette(portrait: Portrait) -> Palette:
    attributes, jitter = portrait.attributes, portrait.jitter
    skin = shift(SKIN[attributes["skin"]], jitter["skin_shade"], jitter["skin_hue"], 0.05)
    hair = shift(HAIR[attributes["hair_colour"]], jitter["hair_shade"], jitter["hair_hue"], 0.07)
    woman = attributes["sex"] == "woman"
    lips = mix(skin, (186, 30, 56), 0.72) if woman else mix(skin, (150, 60, 56), 0.45)
    saturation = 0.38 + 0.3 * abs(jitter["clothes_cut"])
    clothes = colorsys.hsv_to_rgb(jitter["clothes_hue"] * 0.5 + 0.5, saturation, 0.58 + 0.3 * jitter["clothes_shade"])
    return Palette(
        background=shift(
            BACKGROUND[attributes["background"]], jitter["background_shade"], jitter["background_hue"], 0.08
        ),
        skin=skin,
        hair=hair,
        brow=mix(darker(hair, 0.35), darker(skin, 0.6), 0.25),
        lips=lips,
        iris=IRIS[int((jitter["iris"] * 0.5 + 0.5) * len(IRIS))],
        clothes=(clothes[0] * 255, clothes[1] * 255, clothes[2] * 255),
        frame=FRAME[int((jitter["frame_colour"] * 0.5 + 0.5) * len(FRAME))],
    )
