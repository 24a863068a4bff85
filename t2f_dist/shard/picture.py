"""A picture from its bytes to a square of RGB: decoded, upright, without transparency, cropped and reduced."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps

from t2f_dist.config.recipe import ImageRecipe
from t2f_dist.storage.patience import Unreachable

# Named, so that no plugin that runs another program (EPS: ghostscript) is ever reached by a file's content.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")


_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations of EXIF
PASSES_MAX = 100  # of a progressive JPEG, thumbnails included; encoders make about ten


class Rejected(ValueError):
    """A file that cannot become part of a sample; the message is the reason."""


class Opened(NamedTuple):
    image: Image.Image  # upright; of a JPEG it may be at a reduced scale
    size: tuple[int, int]  # width and height of the whole picture, upright


def opened(read: Callable[[], bytes], recipe: ImageRecipe | None = None, resolution: int | None = None) -> Opened:
    """A picture from its bytes, decoded; of a JPEG, given a recipe, no more than that needs.

    Args:
        resolution: pixels a side, if not the recipe's.

    Raises:
        Rejected: it cannot be read, or has too many pixels.
        OSError: of the system, as it was read.
    """
    try:
        content = read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                check_passes(content, image)
                width, height = image.size
                if recipe is not None and image.format in ("JPEG", "MPO"):
                    upright = (height, width) if _turn(image) in _ON_ITS_SIDE else (width, height)
                    scale = _scale(upright, recipe, resolution or recipe.resolution)
                    if scale > 1:
                        image.draft("RGB", (width // scale, height // scale))
                image.load()
                turn = _turn(image)
                if turn != 1:
                    ImageOps.exif_transpose(image, in_place=True)
                return Opened(image, (height, width) if turn in _ON_ITS_SIDE else (width, height))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Rejected(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except FileNotFoundError:
        raise Rejected("no such file") from None
    except (Rejected, MemoryError, Unreachable):  # for want of memory or of a network nothing is said of the picture
        raise
    except Exception as error:  # on a broken file Pillow's readers raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system, which says nothing of the picture either
        text = "not an image" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
        raise Rejected(f"unreadable image: {text or type(error).__name__}") from None


def _turn(image: Image.Image) -> int:
    """How a camera held it, as EXIF counts; 1: upright."""
    # Other formats say it in ways that only `getexif` knows.
    if image.format == "JPEG" and "exif" not in image.info:
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _scale(size: tuple[int, int], recipe: ImageRecipe, resolution: int) -> int:
    """By how much a JPEG may be reduced as it is decoded, so that the area filter still has enough to work on.

    That takes twice the resolution where each pixel becomes the mean of a whole number of others, and four times it
    elsewhere, since Pillow's filter takes whole pixels.
    """
    if recipe.jpeg_decoding == "whole":
        return 1
    box = _box(size, recipe)
    sides = box[2] - box[0], box[3] - box[1]
    for scale in (8, 4, 2):
        whole = not any(edge % scale for edge in box) and not any(side // scale % resolution for side in sides)
        if min(sides) // scale >= (2 if whole else 4) * resolution:
            return scale
    return 1


def check_passes(content: bytes, image: Image.Image) -> None:
    """Raises Rejected for a JPEG of which a small file makes a decoder go over all pixels for minutes."""
    if image.format not in ("JPEG", "MPO") or _is_of_one_pass(content):
        return
    values = np.frombuffer(content, np.uint8)  # which counts a pair of bytes ten times as fast as bytes.count
    if np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == 0xDA)) > PASSES_MAX:
        raise Rejected(f"a JPEG of more than {PASSES_MAX} passes")


def _is_of_one_pass(content: bytes) -> bool:
    """Whether a JPEG is sequential and its first scan holds all channels: a decoder reads no further."""
    place, channels = 2, 0
    while len(content) > place + 9 and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in (0xC0, 0xC1):
            channels = content[place + 9]
        elif marker == 0xDA:
            return channels > 0 and content[place + 4] == channels
        elif 0xC2 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return False  # progressive, or of a kind that is not known
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return False


def rgb(image: Image.Image, recipe: ImageRecipe) -> Image.Image:
    """Any mode as the recipe wants it in RGB. Raises Rejected as `flat`."""
    if not recipe.swap_red_blue:
        return flat(image, recipe.background)
    # The swap comes last, and must leave the background as it is named.
    red, green, blue = (recipe.background[start : start + 2] for start in (1, 3, 5))
    return Image.merge("RGB", flat(image, f"#{blue}{green}{red}").split()[::-1])


def flat(image: Image.Image, background: str) -> Image.Image:
    """Any mode as RGB; transparent pixels show the background, 16 bits are scaled to 8.

    Raises:
        Rejected: pixels of a kind that has no plain meaning in 8 bits.
    """
    if image.mode.startswith("I"):
        # Pillow reads 16-bit greyscale as I;16 or as I, by file format
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Rejected("32-bit pixels")
        # Row by row, since a picture may be as large as is allowed; to the nearest, where a half is not possible.
        rows = np.empty(values.shape, np.uint8)
        for number, row in enumerate(values):
            rows[number] = (row.astype(np.int32) + 128) // 257
        return Image.fromarray(rows).convert("RGB")
    if image.mode == "F":
        raise Rejected("floating-point pixels, of which the range is not known")
    try:
        if not image.has_transparency_data:
            return image if image.mode == "RGB" else image.convert("RGB")
        under = Image.new("RGBA", image.size, ImageColor.getrgb(background))
        return Image.alpha_composite(under, image.convert("RGBA")).convert("RGB")
    except ValueError:
        raise Rejected(f"pixels of mode {image.mode}") from None


def square(
    image: Image.Image, recipe: ImageRecipe, resolution: int | None = None, size: tuple[int, int] | None = None
) -> Image.Image:
    """Crop, then fit, then one area filter down to the resolution (Pillow's BOX; an exact mean at whole ratios).

    Args:
        resolution: pixels a side, if not the recipe's.
        size: width and height that the picture had, where it was decoded at a reduced scale.

    Raises:
        Rejected: smaller than the resolution and `allow_upscale` is off.
    """
    size = size or image.size
    resolution = resolution or recipe.resolution
    left, top, right, bottom = _box(size, recipe)
    width, height = right - left, bottom - top
    if min(width, height) < 1:
        raise Rejected(f"nothing is left of {size[0]}x{size[1]} pixels after the crop")
    smaller = max(width, height) if recipe.fit == "pad" else min(width, height)
    if smaller < resolution and not recipe.allow_upscale:
        raise Rejected(
            f"{width}x{height} pixels after the crop, smaller than the resolution {resolution} (allow_upscale is off)"
        )
    across, down = image.width / size[0], image.height / size[1]  # 1, unless it was reduced
    box = (left * across, top * down, right * across, bottom * down)
    if recipe.fit != "pad" or width == height:
        return _resize(image, (resolution, resolution), box)
    scale = resolution / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new("RGB", (resolution, resolution), recipe.background)
    offset = (resolution - inner[0]) // 2, (resolution - inner[1]) // 2
    canvas.paste(_resize(image, inner, box), offset)
    return canvas


def _box(size: tuple[int, int], recipe: ImageRecipe) -> tuple[int, int, int, int]:
    """The part of the picture that is kept, in whole pixels."""
    width, height = size
    if recipe.crop_box is not None:
        left, top, right, bottom = (round(share * side) for share, side in zip(recipe.crop_box, size * 2))
    else:
        kept_width, kept_height = round(width * recipe.crop_fraction), round(height * recipe.crop_fraction)
        if recipe.fit == "crop":
            kept_width = kept_height = round(min(width, height) * recipe.crop_fraction)
        left, top = (width - kept_width) // 2, (height - kept_height) // 2
        right, bottom = left + kept_width, top + kept_height
    if recipe.fit == "crop":
        side = min(right - left, bottom - top)
        left += (right - left - side) // 2
        top += (bottom - top - side) // 2
        right, bottom = left + side, top + side
    return left, top, right, bottom


def _resize(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    width, height = box[2] - box[0], box[3] - box[1]
    if size[0] > width or size[1] > height:
        return image.resize(size, Image.Resampling.BICUBIC, box=box)
    factors = width / size[0], height / size[1]
    if all(number.is_integer() for number in (*factors, *box)):
        # The same mean, in a third of the time.
        left, top, right, bottom = map(int, box)
        return image.reduce((int(factors[0]), int(factors[1])), (left, top, right, bottom))
    return image.resize(size, Image.Resampling.BOX, box=box)
