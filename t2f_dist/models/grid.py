"""Faces side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

MARGIN = 2


def grid(images: Tensor, columns: int, min_size: int = 64) -> Image.Image:
    """uint8 [N, 3, R, R] -> a picture of rows of `columns` faces, row by row.

    Faces smaller than `min_size` pixels are enlarged by a whole factor, so that a screen shows them.
    """
    num, _, size, _ = images.shape
    factor = max(1, -(-min_size // size))
    cell = size * factor + MARGIN
    rows = -(-num // columns)
    canvas = np.full((rows * cell + MARGIN, columns * cell + MARGIN, 3), 255, dtype=np.uint8)
    for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = (MARGIN + index * cell for index in divmod(number, columns))
        large = image.repeat(factor, axis=0).repeat(factor, axis=1)
        canvas[top : top + size * factor, left : left + size * factor] = large
    return Image.fromarray(canvas)
