import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t2f_dist.models.grid import LINE, MARGIN, MAX_LINES, MIN_WIDTH, enlarge, grid

LONG = "A smiling woman with long wavy red hair and round glasses, before a wall of plain pale blue. " * 3


def faces(num: int, size: int) -> torch.Tensor:
    """Each of one colour of its own, none of them white or black."""
    colours = torch.arange(num * 3, dtype=torch.uint8).view(num, 3) * 3 + 40
    return colours[:, :, None, None].expand(num, 3, size, size).contiguous()


def cells(canvas: Image.Image, tops: list[int], columns: int, cell: int) -> list[np.ndarray]:
    pixels = np.asarray(canvas)
    lefts = [MARGIN + column * (cell + MARGIN) for column in range(columns)]
    return [pixels[top : top + cell, left : left + cell] for top in tops for left in lefts]


@given(st.integers(1, 3), st.integers(1, 9), st.sampled_from([4, 32, 64, 100]))
def test_each_face_stands_where_its_row_and_column_are(rows: int, columns: int, size: int):
    images = faces(rows * columns, size)
    canvas = grid(images, ["short"] * rows)
    cell = size * max(1, -(-64 // size))
    row_height = LINE + cell + 2 * MARGIN
    tops = [MARGIN + row * row_height + LINE for row in range(rows)]
    assert canvas.size == (max(columns * (cell + MARGIN) + MARGIN, MIN_WIDTH), rows * row_height + MARGIN)
    for face, found in zip(images, cells(canvas, tops, columns, cell), strict=True):
        assert (found == face[:, 0, 0].numpy()).all()
    pixels = np.asarray(canvas)
    for top in tops:
        caption = pixels[top - LINE : top]
        assert (caption != 255).any(), "its caption stands above it"
        assert (pixels[top + cell : top + cell + MARGIN] == 255).all()


def test_a_long_caption_is_wrapped_and_what_is_cut_is_marked():
    images = faces(2, 64)
    canvas = grid(images, [LONG, "short"])
    tops = [MARGIN + MAX_LINES * LINE, MARGIN + (MAX_LINES + 1) * LINE + 64 + 2 * MARGIN]
    assert canvas.height == tops[1] + 64 + 2 * MARGIN
    for face, found in zip(images, cells(canvas, tops, 1, 64), strict=True):
        assert (found == face[:, 0, 0].numpy()).all()
    whole = np.asarray(grid(images[:1], ["A smiling woman with long wavy red hair and round glasses"]))
    assert (whole[:, -MARGIN:] == 255).all(), "a sentence is not cut above a single face"
    assert whole.shape[0] <= 2 * LINE + 64 + 4 * MARGIN


def test_a_caption_without_letters_takes_no_room_and_any_script_is_drawn():
    assert grid(faces(1, 64), [""]).height == 64 + 3 * MARGIN
    assert grid(faces(1, 64), ["улыбается 微笑 😀"]).height == LINE + 64 + 3 * MARGIN


@pytest.mark.parametrize(("size", "factor"), [(4, 16), (32, 2), (48, 2), (64, 1), (128, 1)])
def test_enlarging_repeats_pixels_by_a_whole_factor(size: int, factor: int):
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    big = enlarge(image)
    assert big.shape == (size * factor, size * factor, 3)
    for row in range(factor):
        assert (big[row::factor, row::factor] == image).all()
