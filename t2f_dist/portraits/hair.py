"""Hair and beard. `behind` is drawn before the head, `front` after it. Head frame: see shapes.py."""

from __future__ import annotations

import numpy as np

from t2f_dist.portraits.attributes import Portrait
from t2f_dist.portraits.palette import Colour, darker, lighter
from t2f_dist.portraits.shapes import Canvas, Frame, mirrored


def behind(canvas: Canvas, portrait: Portrait, hair: Colour, head: Frame) -> None:
    """What falls behind the head and the shoulders."""
    style, jitter = portrait.attributes["hair_style"], portrait.jitter
    volume = 0.06 * jitter["hair_volume"]
    shade = darker(hair, 0.28)
    if style == "long":
        end = 1.45 + 0.22 * jitter["hair_length"]
        outline = [
            (0, -1.18 - volume),
            (0.6, -1.04),
            (0.98 + volume, -0.45),
            (1.04 + volume, 0.3),
            (1.14 + volume, 0.9),
        ]
        outline += [(1.06 + volume, end), (0.62, end + 0.1), (0, end - 0.1)]
        canvas.blob(mirrored(outline), shade, head)
        for side in (-1, 1):
            for start, finish, width in ((0.8, 1.02, 0.1), (0.72, 0.8, 0.08), (0.94, 1.08, 0.05)):
                line = [(side * start, -0.3), (side * (start + 0.14), 0.5), (side * finish, end - 0.12)]
                canvas.stroke(line, (0.02, width, 0.02), hair, head)
    elif style == "curly":
        canvas.oval(0, -0.3, 0.98, 0.92, shade, head)
        for x, y, radius in _curls(portrait):
            canvas.oval(x, y, radius, radius, shade, head)
            canvas.oval(x * 0.97, y - 0.02, radius * 0.78, radius * 0.78, hair, head)
            canvas.oval(x - 0.06, y - 0.08, radius * 0.34, radius * 0.34, lighter(hair, 0.13), head)
    elif style == "short":
        canvas.blob(mirrored([(0, -1.1), (0.62, -0.92), (0.88, -0.35), (0.8, 0.18), (0, 0.3)]), shade, head)


def _curls(portrait: Portrait) -> list[tuple[float, float, float]]:
    """(x, y, radius) of the curls around the head."""
    jitter = portrait.jitter
    volume = 1 + 0.07 * jitter["hair_volume"]
    count = 13
    low = 0.32 + 0.22 * jitter["hair_length"]  # how far down the sides the curls reach
    angles = np.linspace(-np.pi / 2 - 2.05 - low, -np.pi / 2 + 2.05 + low, count)
    wobble = 0.05 * np.sin(np.arange(count) * (2.4 + 0.5 * jitter["curl"]) + 3 * jitter["parting"])
    radius = 0.29 + 0.03 * jitter["curl"] + 0.5 * wobble
    x, y = np.cos(angles) * (0.95 * volume + wobble), -0.27 + np.sin(angles) * (0.88 * volume + wobble)
    return list(zip(x.tolist(), y.tolist(), radius.tolist(), strict=True))


def front(canvas: Canvas, portrait: Portrait, hair: Colour, skin: Colour, head: Frame) -> None:
    """What lies on the forehead and the temples; the shine of a bald head."""
    style, jitter = portrait.attributes["hair_style"], portrait.jitter
    woman = portrait.attributes["sex"] == "woman"
    part = 0.34 * jitter["parting"]
    volume = 0.06 * jitter["hair_volume"]
    shine, shade = lighter(hair, 0.22), darker(hair, 0.3)
    if style == "bald":
        canvas.spot(-0.22, -0.68, 0.42, 0.26, lighter(skin, 0.75), head, 0.75)
        return
    if style == "curly":
        for place, x in enumerate(np.linspace(-0.7, 0.7, 7)):
            y = -0.86 + 0.5 * x**2 + 0.05 * np.sin(place * 2.1 + 4 * jitter["curl"])
            radius = 0.2 + 0.025 * np.cos(place * 1.7 + 3 * jitter["curl"])
            canvas.oval(x, y + 0.02, radius, radius, shade, head)
            canvas.oval(x, y - 0.02, radius * 0.86, radius * 0.86, hair, head)
            canvas.oval(x - 0.05, y - 0.08, radius * 0.34, radius * 0.34, shine, head)
        return
    top = -1.16 - volume
    if style == "short":
        down = 0.16 if woman else 0.02
        side = 0.9 + volume if woman else 0.86 + 0.5 * volume
        outer = [
            (-0.8, down),
            (-side, -0.35),
            (-0.72, -0.9),
            (-0.3, top + 0.02),
            (0.2, top),
            (0.7, -0.92),
            (side, -0.35),
        ]
        outer += [(0.8, down)]
        fringe = -0.46 if woman else -0.6
        inner = [(0.7, -0.12), (0.66, -0.42), (0.42, fringe - 0.1), (part, fringe - 0.12), (part - 0.3, fringe)]
        inner += [(-0.62, -0.42), (-0.7, -0.12)]
        shadow = [(x, y + 0.07) for x, y in inner]
        canvas.blob(outer + shadow, darker(skin, 0.22), head, 0.55)
        canvas.blob(outer + inner, hair, head)
        canvas.stroke([(-0.72, -0.55), (-0.5, -0.86), (-0.1, -1.02)], (0.0, 0.09, 0.0), shine, head, 0.75)
        canvas.stroke(
            [(part, fringe - 0.14), (part + 0.1, -0.86), (part + 0.3, -1.04)], (0.045, 0.03, 0.0), shade, head, 0.7
        )
    else:
        low = 0.42 + 0.1 * jitter["hair_length"]
        for side in (-1, 1):
            lock = [(part, top + 0.02), (side * 0.5, -1.06 - 0.5 * volume), (side * (0.88 + volume), -0.55)]
            lock += [(side * (0.97 + volume), 0.1), (side * 0.95, low + 0.35), (side * 0.84, low)]
            lock += [(side * 0.77, 0.0), (side * 0.62, -0.42), (part + side * 0.12, -0.72)]
            canvas.blob([(x, y + 0.05) for x, y in lock[5:]] + [(side * 0.9, -0.3)], darker(skin, 0.25), head, 0.5)
            canvas.blob(lock, hair, head)
            line = [(part + side * 0.1, -0.98), (side * 0.6, -0.8), (side * 0.84, -0.2), (side * 0.89, 0.35)]
            canvas.stroke(line, (0.01, 0.085, 0.06, 0.01), shine, head, 0.75)
            line = [(part + side * 0.06, -0.84), (side * 0.5, -0.66), (side * 0.74, -0.2), (side * 0.82, 0.3)]
            canvas.stroke(line, (0.01, 0.035, 0.03, 0.01), shade, head, 0.6)
        canvas.stroke([(part, top + 0.06), (part, -0.74)], (0.02, 0.05), shade, head, 0.8)


def beard(canvas: Canvas, portrait: Portrait, hair: Colour, head: Frame, jaw: list[tuple[float, float]]) -> None:
    """A full beard in the colour of the hair, along the jaw whose right half is given, with a moustache."""
    length = 0.08 + 0.06 * (1 + portrait.jitter["beard_length"])
    edge = [(x * 1.02, y + length * max(0.0, y)) for x, y in jaw]
    inner = [(0, 0.43), (0.2, 0.42), (0.42, 0.52), (0.6, 0.36), (0.72, 0.02)]
    outline = np.array(inner + edge)
    canvas.blob(mirrored(outline), hair, head)
    shade, shine = darker(hair, 0.3), lighter(hair, 0.16)
    canvas.stroke([(-0.14, 0.8), (0, 0.83), (0.14, 0.8)], (0.0, 0.05, 0.0), shade, head, 0.6)
    for side in (-1, 1):
        canvas.stroke(
            [(side * 0.62, 0.46), (side * 0.52, 0.72), (side * 0.32, 0.94)], (0.0, 0.07, 0.0), shine, head, 0.7
        )
        canvas.stroke(
            [(side * 0.03, 0.45), (side * 0.2, 0.47), (side * 0.36, 0.58)], (0.05, 0.08, 0.0), shade, head, 0.45
        )
