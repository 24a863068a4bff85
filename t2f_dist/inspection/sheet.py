"""A contact sheet: faces with their captions, for the eye."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from t2f_dist.inspection.excerpt import Excerpt
from t2f_dist.inspection.table import printable

FACE = 160  # pixels a side on the sheet, about
MARGIN = 12
FONT_SIZE = 13
LINES_MAX = 9


def sheet(shown: Sequence[Excerpt], columns: int) -> Image.Image:
    """At least one sample, in rows of `columns`: face, captions under it, key and voice."""
    font = ImageFont.load_default(FONT_SIZE)
    cells = [_cell(sample, font) for sample in shown]
    columns = min(columns, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + MARGIN for row in rows]
    page = Image.new("RGB", (columns * (cells[0].width + MARGIN) + MARGIN, sum(heights) + MARGIN), "white")
    top = MARGIN
    for row, height in zip(rows, heights):
        for column, cell in enumerate(row):
            page.paste(cell, (MARGIN + column * (cell.width + MARGIN), top))
        top += height
    return page


def _cell(shown: Excerpt, font) -> Image.Image:
    width = FACE + 60
    # Small images at a whole multiple, so that every pixel shows as it is.
    resolution = shown.image.width
    side = resolution * round(FACE / resolution) or FACE
    filtered = Image.Resampling.BOX if side < resolution else Image.Resampling.NEAREST
    letters = int(width / font.getlength("abcdefghijklmnopqrstuvwxyz ") * 27)
    lines = []
    for caption in shown.captions:
        lines += textwrap.wrap(printable(caption), letters, initial_indent="- ", subsequent_indent="  ")
    if len(lines) > LINES_MAX:
        lines = [*lines[: LINES_MAX - 1], "  ..."]
    voice = f"voice {shown.seconds:.1f} s" if shown.seconds else "no voice"
    step = FONT_SIZE + 4
    cell = Image.new("RGB", (width, side + 6 + step * (len(lines) + 2)), "white")
    cell.paste(shown.image.resize((side, side), filtered), (0, 0))
    draw = ImageDraw.Draw(cell)
    name = printable(shown.key)
    while font.getlength(name) > width:
        name = "..." + name[4:]
    draw.text((0, side + 4), name, fill="#555555", font=font)
    draw.text((0, side + 4 + step), f"{voice}, {shown.num_captions} captions", fill="#555555", font=font)
    for number, line in enumerate(lines, start=2):
        draw.text((0, side + 4 + number * step), line, fill="black", font=font)
    return cell
