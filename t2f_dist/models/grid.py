"""Faces side by side: one row a caption."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN = 2
FONT_PIXELS = 12
LINE = FONT_PIXELS + 4
MAX_LINES = 3  # of a caption
MIN_WIDTH = 400  # room for a caption's words above a single face


def enlarge(image: np.ndarray, min_size: int = 64) -> np.ndarray:
    """[R, R, 3] by the least whole factor that makes it at least `min_size` pixels, so that a screen shows it."""
    factor = max(1, -(-min_size // image.shape[0]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def grid(images: Tensor, captions: Sequence[str], min_size: int = 64) -> Image.Image:
    """uint8 [captions x columns, 3, R, R], row by row -> a picture with each caption above its row."""
    columns, rest = divmod(len(images), len(captions))
    assert columns > 0 and rest == 0
    cells = [enlarge(image, min_size) for image in images.permute(0, 2, 3, 1).numpy()]
    cell = len(cells[0]) + MARGIN
    width = max(columns * cell + MARGIN, MIN_WIDTH)
    font = ImageFont.load_default(FONT_PIXELS)
    letters = max(1, int(width / font.getlength("n")))
    texts = [textwrap.wrap(caption, letters, max_lines=MAX_LINES, placeholder=" ...") for caption in captions]
    height = sum(len(text) * LINE + cell + MARGIN for text in texts) + MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    top = MARGIN
    for row, text in enumerate(texts):
        for line in text:
            pen.text((MARGIN, top), line, fill="black", font=font)
            top += LINE
        for column in range(columns):
            canvas.paste(Image.fromarray(cells[row * columns + column]), (MARGIN + column * cell, top))
        top += cell + MARGIN
    return canvas
