"""Faces side by side: one row a condition, or a row a caption and a column a voice."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN = 2
FONT_PIXELS = 12
LINE = FONT_PIXELS + 4
MAX_LINES = 3  # of a label
MIN_WIDTH = 400  # room for a caption's words above a single face
LABELLED_WIDTH = 96  # of a face under a label of its own


def enlarged(resolution: int, min_size: int = 64) -> int:
    """Pixels of a face of `resolution`, by the least whole factor that makes it at least `min_size`."""
    return resolution * max(1, -(-min_size // resolution))


def enlarge(image: np.ndarray, min_size: int = 64) -> np.ndarray:
    """[R, R, 3] as large as `enlarged` says, so that a screen shows it."""
    factor = enlarged(image.shape[0], min_size) // image.shape[0]
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def grid(images: Tensor, rows: Sequence[str], columns: Sequence[str] = (), min_size: int = 64) -> Image.Image:
    """Faces, row by row, as one picture.

    Args:
        images: uint8 [N, 3, R, R]. All rows are of one length, but that the last may be shorter.
        rows: what stands above each row; an empty label takes no room.
        columns: what stands above each column, at the top; none, or one a column.
        min_size: pixels of a face at the least; more where columns are labelled.
    """
    num_columns = -(-len(images) // len(rows))
    assert num_columns * (len(rows) - 1) < len(images)
    assert len(columns) in (0, num_columns)
    min_size = max(min_size, LABELLED_WIDTH) if columns else min_size
    cells = [enlarge(image, min_size) for image in images.permute(0, 2, 3, 1).numpy()]
    cell = len(cells[0]) + MARGIN
    width = max(num_columns * cell + MARGIN, MIN_WIDTH)
    font = ImageFont.load_default(FONT_PIXELS)
    heads = [_wrapped(label, cell - 2 * MARGIN, font) for label in columns]
    texts = [_wrapped(label, width - MARGIN, font) for label in rows]
    head = max((len(lines) for lines in heads), default=0) * LINE
    height = head + sum(len(lines) * LINE + cell + MARGIN for lines in texts) + MARGIN
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    top = MARGIN + head
    for column, lines in enumerate(heads):
        for line, label in enumerate(lines):
            pen.text((MARGIN + column * cell, MARGIN + line * LINE), label, fill="black", font=font)
    for row, lines in enumerate(texts):
        for line in lines:
            pen.text((MARGIN, top), line, fill="black", font=font)
            top += LINE
        for column, face in enumerate(cells[row * num_columns : (row + 1) * num_columns]):
            canvas.paste(Image.fromarray(face), (MARGIN + column * cell, top))
        top += cell + MARGIN
    return canvas


def _wrapped(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of at most `width` pixels, as many as there is room for; what is cut is marked."""
    letters = max(1, int(width / font.getlength("n")))
    while True:
        lines = textwrap.wrap(label, letters, max_lines=MAX_LINES, placeholder=" ..." if letters > 4 else "")
        if letters == 1 or all(font.getlength(line) <= width for line in lines):
            return lines
        letters -= 1
