from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t2f_dist.models.grid import LABELLED_WIDTH, LINE, MARGIN, MAX_LINES, MIN_WIDTH, enlarge, grid

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


def test_columns_have_labels_of_their_own_at_the_top():
    images = faces(6, 48)
    canvas = grid(images, ["short", "short"], ["a.wav", "a_name_of_more_than_one_line.flac", ""])
    head, cell = 3 * LINE, 2 * 48
    assert cell == LABELLED_WIDTH
    tops = [MARGIN + head + LINE + row * (LINE + cell + 2 * MARGIN) for row in range(2)]
    assert canvas.height == tops[1] + cell + 2 * MARGIN
    for face, found in zip(images, cells(canvas, tops, 3, cell), strict=True):
        assert (found == face[:, 0, 0].numpy()).all()
    pixels = np.asarray(canvas)[: MARGIN + head]
    lefts = [MARGIN + column * (cell + MARGIN) for column in range(4)]
    written = [(pixels[:, left : right - MARGIN] != 255).any(axis=(1, 2)) for left, right in pairwise(lefts)]
    assert written[0][:LINE].any()
    assert not written[0][LINE + MARGIN :].any(), "one line"
    assert written[1][2 * LINE :].any(), "three lines"
    assert not written[2].any()
    gaps = [pixels[:, right - MARGIN : right] for right in lefts[1:]]
    assert all((gap == 255).all() for gap in gaps), "no label runs into the next column"


def test_the_last_row_may_be_shorter():
    images = faces(5, 64)
    pixels = np.asarray(grid(images, ["", ""]))
    tops = [MARGIN, MARGIN + 64 + 2 * MARGIN]
    found = cells(Image.fromarray(pixels), tops, 3, 64)
    for face, cell in zip(images, found, strict=False):
        assert (cell == face[:, 0, 0].numpy()).all()
    assert (found[5] == 255).all()


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
