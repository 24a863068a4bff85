"""A portrait as pixels: layer upon layer from the background to the glasses, in frames independent of resolution.

Everything is drawn several times larger with integer coverage and reduced by an area filter, so a picture depends on
nothing but the portrait and the resolution: no floating-point blending, no fonts, no system libraries.
"""

from __future__ import annotations

import math

import numpy as np

from t2f_dist.portraits import hair as hairs
from t2f_dist.portraits.attributes import Portrait
from t2f_dist.portraits.palette import GOLD, INK, WHITE, Palette, darker, lighter, mix, palette
from t2f_dist.portraits.shapes import PAGE, Canvas, Frame, mirrored


def draw(portrait: Portrait, resolution: int) -> np.ndarray:
    """uint8 [resolution, resolution, 3]. Raises ValueError when resolution is below 1."""
    canvas = Canvas(resolution)
    colours = palette(portrait)
    jitter = portrait.jitter
    head = Frame(
        x0=0.5 + 0.025 * jitter["head_x"],
        y0=0.485 + 0.02 * jitter["head_y"],
        unit=0.285 * (1 + 0.08 * jitter["head_size"]),
        angle=math.radians(5) * jitter["tilt"],
    )
    _background(canvas, portrait, colours)
    hairs.behind(canvas, portrait, colours.hair, head)
    _body(canvas, portrait, colours, head)
    face = _face_outline(portrait)
    _head(canvas, portrait, colours, head, face)
    if portrait.attributes["beard"] == "beard":
        hairs.beard(canvas, portrait, colours.hair, head, face[4:])
    _mouth(canvas, portrait, colours, head)
    _nose(canvas, portrait, colours, head)
    _eyes(canvas, portrait, colours, head)
    hairs.front(canvas, portrait, colours.hair, colours.skin, head)
    _brows(canvas, portrait, colours, head)
    if portrait.attributes["glasses"] == "glasses":
        _glasses(canvas, portrait, colours, head)
    return canvas.pixels()


def _woman(portrait: Portrait) -> bool:
    return portrait.attributes["sex"] == "woman"


def _background(canvas: Canvas, portrait: Portrait, colours: Palette) -> None:
    canvas.image.paste(tuple(round(channel) for channel in colours.background), (0, 0, canvas.size, canvas.size))
    x = 0.5 + 0.3 * portrait.jitter["light"]
    canvas.spot(x, 0.3, 0.75, 0.75, lighter(colours.background, 0.45), PAGE, 0.8)
    canvas.spot(0.5, 1.1, 1.0, 0.5, darker(colours.background, 0.4), PAGE, 0.6)


def _body(canvas: Canvas, portrait: Portrait, colours: Palette, head: Frame) -> None:
    jitter, woman = portrait.jitter, _woman(portrait)
    neck = (0.084 if woman else 0.112) * (1 + 0.08 * jitter["neck"])
    width = (0.31 if woman else 0.4) * (1 + 0.06 * jitter["shoulders"])
    x, chin = head.x0, head.y0 + head.unit
    top = min(chin + 0.075, 0.86)
    cloth, shade = colours.clothes, darker(colours.clothes, 0.3)

    shoulders = [(neck * 0.9, top), (neck + 0.06, top + 0.035), (width * 0.8, top + 0.075), (width, top + 0.16)]
    outline = np.array([(0, top), *shoulders, (width + 0.03, 1.3), (0, 1.3)])
    canvas.blob(mirrored(outline, x), cloth, PAGE)
    for side in (-1, 1):
        line = [
            (x + side * width * 0.72, 1.05),
            (x + side * width * 0.74, top + 0.17),
            (x + side * width * 0.66, top + 0.12),
        ]
        canvas.stroke(line, (0.02, 0.014, 0.0), shade, PAGE, 0.7)

    column = [(0, chin - 0.16), (neck, chin - 0.16), (neck, chin), (neck * 1.1, top), (neck * 0.8, top + 0.05)]
    cut = jitter["clothes_cut"]
    depth = 0.03 if cut < -0.3 else 0.1
    column += [(0, top + 0.055 + depth)]
    rim = [(0, top - 0.02), (neck * 1.28, top - 0.012), (neck * 1.1, top + 0.055), (0, top + 0.075 + depth)]
    canvas.blob(mirrored(rim, x), shade if cut < 0.3 else lighter(cloth, 0.75), PAGE)
    skin = darker(colours.skin, 0.06)
    canvas.blob(mirrored(column, x), skin, PAGE)
    shadow = darker(colours.skin, 0.32)
    under_chin = [(0, chin - 0.1), (neck, chin - 0.1), (neck, chin + 0.01), (0, chin + 0.055)]
    canvas.blob(mirrored(under_chin, x), shadow, PAGE, 0.8)


def _face_outline(portrait: Portrait) -> list[tuple[float, float]]:
    """The right half of the face from the crown to the chin, head frame."""
    jitter = portrait.jitter
    wide = 0.8 * (1 + 0.05 * jitter["head_width"])
    jaw = (-0.055 if _woman(portrait) else 0.075) + 0.02 * jitter["jaw"]
    return [
        (0, -1.0),
        (wide * 0.58, -0.87),
        (wide * 0.95, -0.5),
        (wide * 1.0, -0.05),
        (wide * 0.95, 0.32),
        (wide * 0.78 + jaw, 0.66),
        (wide * 0.42 + jaw * 1.3, 0.93),
        (0, 1.0),
    ]


def _head(canvas: Canvas, portrait: Portrait, colours: Palette, head: Frame, face: list[tuple[float, float]]) -> None:
    skin, jitter = colours.skin, portrait.jitter
    wide = face[3][0]
    covered = portrait.attributes["hair_style"] == "long"
    for side in (-1, 1):
        canvas.oval(side * (wide + 0.04), 0.12, 0.13, 0.22, darker(skin, 0.08), head)
        canvas.oval(side * (wide + 0.05), 0.12, 0.07, 0.13, darker(skin, 0.3), head, 0.6)
        if _woman(portrait) and not covered and jitter["earrings"] > -0.4:
            canvas.oval(side * (wide + 0.05), 0.4, 0.055, 0.065, GOLD, head)
    outline = mirrored(face)
    canvas.blob(outline, darker(skin, 0.16), head)
    lean = -0.05 if jitter["light"] < 0 else 0.05  # the lit part of the face lies towards the light
    canvas.blob(outline * (0.93, 0.965) + (lean, -0.015), skin, head)
    canvas.spot(lean * 3, -0.35, 0.6, 0.5, lighter(skin, 0.5), head, 0.4)
    blush = mix(skin, (222, 84, 88), 0.42 if _woman(portrait) else 0.24)
    for side in (-1, 1):
        canvas.spot(side * 0.46, 0.4, 0.27, 0.2, blush, head, 0.5 + 0.25 * jitter["blush"])


def _nose(canvas: Canvas, portrait: Portrait, colours: Palette, head: Frame) -> None:
    skin, size = colours.skin, (0.1 if _woman(portrait) else 0.125) * (1 + 0.15 * portrait.jitter["nose_size"])
    side = 1 if portrait.jitter["light"] < 0 else -1  # the shaded side
    bridge = [
        (side * 0.05, 0.0),
        (side * size * 0.75, 0.22),
        (side * size * 1.15, 0.34),
        (side * size * 0.5, 0.4),
        (0, 0.36),
    ]
    canvas.blob([*bridge, (0.0, 0.15)], darker(skin, 0.3), head, 0.42)
    canvas.stroke([(-size, 0.35), (-size * 0.4, 0.405), (size * 0.4, 0.405), (size, 0.35)], (0.02, 0.045, 0.045, 0.02),
                  darker(skin, 0.48), head, 0.85)  # fmt: skip
    canvas.spot(-side * 0.02, 0.28, 0.1, 0.12, lighter(skin, 0.45), head, 0.7)


def _mouth(canvas: Canvas, portrait: Portrait, colours: Palette, head: Frame) -> None:
    jitter, woman = portrait.jitter, _woman(portrait)
    width = 0.3 * (1 + 0.1 * jitter["mouth_width"])
    y = 0.62 + 0.02 * jitter["mouth_height"]
    lips, line = colours.lips, darker(colours.lips, 0.55)
    full = 1.0 if woman else 0.55  # thickness of the lips
    if portrait.attributes["mouth"] == "smile":
        width *= 1.16
        upper = [(-width, y - 0.07), (-width * 0.5, y + 0.0), (0, y + 0.02), (width * 0.5, y + 0.0), (width, y - 0.07)]
        lower = [(width * 0.58, y + 0.13), (0, y + 0.19), (-width * 0.58, y + 0.13)]
        grown = [(a * 1.06, b - 0.05 * full) for a, b in upper] + [(a * 1.06, b + 0.06 * full) for a, b in lower]
        canvas.blob(grown, lips, head)
        canvas.blob(upper + lower, darker((120, 34, 40), 0.25), head)
        teeth = [(a * 0.9, b - 0.045) for a, b in lower]
        canvas.blob([(a * 0.94, b + 0.012) for a, b in upper] + teeth, WHITE, head)
        for side in (-1, 1):
            fold = [
                (side * (width + 0.03), y - 0.13),
                (side * (width + 0.075), y - 0.06),
                (side * (width + 0.05), y + 0.02),
            ]
            canvas.stroke(fold, (0.0, 0.035, 0.0), darker(colours.skin, 0.4), head, 0.75)
    else:
        width *= 0.84
        bow = [(-width, y), (-width * 0.35, y - 0.085 * full), (0, y - 0.055 * full), (width * 0.35, y - 0.085 * full)]
        bow += [(width, y), (width * 0.45, y + 0.115 * full), (0, y + 0.135 * full), (-width * 0.45, y + 0.115 * full)]
        canvas.blob(bow, lips, head)
        middle = [
            (-width * 1.04, y - 0.005),
            (-width * 0.4, y + 0.012),
            (0, y + 0.016),
            (width * 0.4, y + 0.012),
            (width * 1.04, y - 0.005),
        ]
        canvas.stroke(middle, (0.015, 0.035, 0.04, 0.035, 0.015), line, head)
        canvas.spot(0, y + 0.075 * full, 0.1, 0.04, lighter(lips, 0.6), head, 0.5 * full)
        canvas.spot(
            0, y + 0.22, 0.18, 0.06, darker(colours.skin, 0.4), head, 0.35 * (portrait.attributes["beard"] == "none")
        )


def _eyes(canvas: Canvas, portrait: Portrait, colours: Palette, head: Frame) -> None:
    jitter, woman = portrait.jitter, _woman(portrait)
    gap = 0.35 * (1 + 0.06 * jitter["eye_gap"])
    width = (0.185 if woman else 0.17) * (1 + 0.08 * jitter["eye_size"])
    height = (0.125 if woman else 0.1) * (1 + 0.08 * jitter["eye_size"])
    squint = 0.86 if portrait.attributes["mouth"] == "smile" else 1.0
    look = (0.05 * jitter["gaze_x"], 0.02 * jitter["gaze_y"])
    for side in (-1, 1):
        x, y = side * gap, 0.06
        canvas.spot(x, y - 0.02, width * 1.55, height * 1.9, darker(colours.skin, 0.4), head, 0.5)
        lens = [
            (x - side * width, y + 0.03),
            (x - side * width * 0.4, y - height * 0.85),
            (x + side * width * 0.3, y - height),
        ]
        lens += [(x + side * width, y - 0.015), (x + side * width * 0.4, y + height * 0.8 * squint)]
        lens += [(x - side * width * 0.4, y + height * 0.8 * squint)]
        canvas.blob(lens, WHITE, head)
        iris = min(height * 0.86, 0.1)
        ix, iy = x + look[0], y - 0.012 + look[1]
        canvas.oval(ix, iy, iris, iris, darker(colours.iris, 0.3), head)
        canvas.oval(ix, iy + 0.008, iris * 0.78, iris * 0.78, lighter(colours.iris, 0.12), head)
        canvas.oval(ix, iy, iris * 0.48, iris * 0.48, (16, 12, 14), head)
        canvas.oval(ix - 0.03, iy - 0.035, 0.026, 0.026, (255, 255, 255), head)
        lid = [lens[0], lens[1], lens[2], lens[3]]
        if woman:
            lid = [*lid, (x + side * (width + 0.08), y - 0.085)]
            canvas.stroke(lid, (0.02, 0.065, 0.08, 0.075, 0.0), INK, head)
            for a, b in ((0.35, 0.5), (0.75, 0.85)):
                base = (x + side * width * a, y - height * 0.95 + 0.06 * a * b)
                tip = (x + side * (width * a + 0.06), y - height - 0.065 + 0.03 * b)
                canvas.stroke([base, tip], (0.04, 0.0), INK, head)
        else:
            canvas.stroke(lid, (0.015, 0.045, 0.05, 0.02), darker(colours.skin, 0.72), head)
        canvas.stroke(
            [lens[3], lens[4], lens[5], lens[0]], (0.012, 0.02, 0.02, 0.0), darker(colours.skin, 0.45), head, 0.8
        )


def _brows(canvas: Canvas, portrait: Portrait, colours: Palette, head: Frame) -> None:
    jitter, woman = portrait.jitter, _woman(portrait)
    gap = 0.35 * (1 + 0.06 * jitter["eye_gap"])
    y = (-0.22 if woman else -0.16) + 0.025 * jitter["brow_height"]
    thick = 0.055 if woman else 0.115
    arch = 0.075 if woman else 0.035
    tilt = 0.025 * jitter["brow_tilt"]
    for side in (-1, 1):
        inner, outer = (side * (gap - 0.19), y + 0.02 + tilt), (side * (gap + 0.22), y + 0.035 - tilt)
        line = [inner, (side * (gap - 0.02), y - arch * 0.6), (side * (gap + 0.1), y - arch * 0.75), outer]
        canvas.stroke(line, (thick * 0.85, thick, thick * 0.8, 0.01), colours.brow, head)


def _glasses(canvas: Canvas, portrait: Portrait, colours: Palette, head: Frame) -> None:
    jitter = portrait.jitter
    gap = 0.37 * (1 + 0.04 * jitter["eye_gap"])
    rx, ry = 0.29 + 0.015 * jitter["frame"], 0.245 - 0.02 * jitter["frame"]
    power = 2.0 if jitter["frame"] < 0 else 3.4  # round, or rounded rectangles
    angles = np.arange(canvas.steps * 6) * (2 * np.pi / (canvas.steps * 6))
    cos, sin = np.cos(angles), np.sin(angles)
    unit = np.stack([np.sign(cos) * np.abs(cos) ** (2 / power), np.sign(sin) * np.abs(sin) ** (2 / power)], axis=1)
    wide = 0.8 * (1 + 0.05 * jitter["head_width"])
    for side in (-1, 1):
        centre = (side * gap, 0.07)
        outline = unit * (rx, ry) + centre
        canvas.polygon(outline, (232, 242, 250), head, 0.13)
        glare = [(centre[0] - 0.15, 0.16), (centre[0] + 0.0, -0.1), (centre[0] + 0.07, -0.1), (centre[0] - 0.08, 0.16)]
        canvas.polygon(glare, WHITE, head, 0.2)
        canvas.ring(outline, 0.76, colours.frame, head, centre)
        temple = [(side * (gap + rx - 0.02), 0.0), (side * (wide + 0.05), -0.02)]
        canvas.stroke(temple, (0.07, 0.06), colours.frame, head)
    canvas.stroke(
        [(-gap + rx - 0.03, 0.03), (0, -0.02), (gap - rx + 0.03, 0.03)], (0.06, 0.055, 0.06), colours.frame, head
    )
