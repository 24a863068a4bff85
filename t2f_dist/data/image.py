"""An encoded image -> its pixels at a smaller resolution, without decoding what is thrown away.

A JPEG is decoded at the smallest of the scales 1, 1/2, 1/4 and 1/8 of its cosine transform that reaches the resolution,
and box-filtered from there. The reduced transform is no box filter: of photographs it differs from the whole picture,
box-filtered, by less than 1 in 255 on average and by 8 at most; of noise by more. At 1/8 it is the mean of each block.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from t2f_dist.config.recipe import ImageRecipe
from t2f_dist.shard.format import DamagedSample
from t2f_dist.shard.picture import Rejected, check_passes, opened, rgb, square

STORED = ("JPEG", "PNG")


def decode(content: bytes, resolution: int, stored: int | None = None) -> np.ndarray:
    """A square image of a shard at a resolution: uint8 planes [3, R, R].

    Args:
        stored: the side that it must have; None: any whole multiple of the resolution.

    Raises DamagedSample where it is no image, of another side, of none that the resolution divides, or one that takes
    minutes to decode.
    """
    try:
        with Image.open(io.BytesIO(content), formats=STORED) as image:
            factor, rest = divmod(image.width, resolution)
            if rest or factor < 1 or image.width != image.height or image.width != (stored or image.width):
                raise DamagedSample(
                    f"image: {image.width}x{image.height}"
                    + (f" pixels, not {stored}" if stored else f" has no whole reduction to {resolution}")
                )
            check_passes(content, image)
            if factor > 1:
                image.draft("RGB", (resolution, resolution))
            image.load()
            image = image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
    except (DamagedSample, MemoryError):
        raise
    except Rejected as error:
        raise DamagedSample(f"image: {error}") from None
    except Exception as error:  # on a broken file Pillow's readers raise nearly anything
        raise _undecodable(error) from None
    if image.width > resolution:
        image = image.reduce(image.width // resolution)
    return np.asarray(image).transpose(2, 0, 1)


def decode_foreign(content: bytes, resolution: int, recipe: ImageRecipe) -> np.ndarray:
    """An image of any size and format, brought to a square as a recipe says: uint8 planes [3, R, R].

    Raises DamagedSample where it is no image, or is too small.
    """
    try:
        image, size = opened(lambda: content, recipe, resolution)
        return np.asarray(square(rgb(image, recipe), recipe, resolution, size)).transpose(2, 0, 1)
    except Rejected as error:
        raise DamagedSample(f"image: {error}") from None


def _undecodable(error: Exception) -> DamagedSample:
    text = "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
    return DamagedSample(f"image: cannot be decoded ({text or type(error).__name__})")
