"""One raw image, voice or caption into what is stored. Pure functions: the same file and recipe, the same bytes."""

import functools
import io
import math
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageColor, ImageOps

from t2f_dist.config.recipe import AudioRecipe, ImageRecipe
from t2f_dist.shard.sources import Ref

# Named, so that no plugin that runs another program (EPS: ghostscript) is ever reached by a file's content.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
KERNEL_ELEMENTS_MAX = 20_000_000


class Rejected(ValueError):
    """A file that cannot become part of a sample; the message is the reason."""


def encode_image(content: Ref, recipe: ImageRecipe) -> tuple[bytes, tuple[int, int]]:
    """An image, wherever its bytes stand, as a square JPEG or PNG of the recipe's resolution, 8-bit RGB.

    Returns:
        The encoded bytes, and the (width, height) in pixels that the picture had, upright.

    Raises:
        Rejected: not readable, or smaller than the resolution and `allow_upscale` is off.
    """
    if recipe.swap_red_blue:
        # The swap comes last, and must leave the background as it is named.
        red, green, blue = (recipe.background[start : start + 2] for start in (1, 3, 5))
        image = _flat(_open(content), f"#{blue}{green}{red}")
        image = Image.merge("RGB", image.split()[::-1])
    else:
        image = _flat(_open(content), recipe.background)
    size = image.size
    image = _square(image, recipe)
    stream = io.BytesIO()
    if recipe.format == "jpg":
        image.save(stream, "JPEG", quality=recipe.quality, subsampling=0)
    else:
        image.save(stream, "PNG")
    return stream.getvalue(), size


def _open(content: Ref) -> Image.Image:
    try:
        stream = io.BytesIO(content.read())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(stream, formats=FORMATS) as image:
                image.load()
                return ImageOps.exif_transpose(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Rejected(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except FileNotFoundError:
        raise Rejected("no such file") from None
    except Exception as error:  # on a broken file Pillow's readers raise nearly anything
        text = "not an image" if isinstance(error, Image.UnidentifiedImageError) else " ".join(str(error).split())
        raise Rejected(f"unreadable image: {text or type(error).__name__}") from None


def _flat(image: Image.Image, background: str) -> Image.Image:
    """Any mode as RGB; transparent pixels show the background, 16 bits are scaled to 8."""
    if image.mode.startswith("I"):
        # Pillow reads 16-bit greyscale as I;16 or as I, by file format
        values = np.asarray(image, dtype=np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise Rejected("32-bit pixels")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Rejected("floating-point pixels, of which the range is not known")
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        under = Image.new("RGBA", image.size, ImageColor.getrgb(background))
        return Image.alpha_composite(under, image.convert("RGBA")).convert("RGB")
    except ValueError:
        raise Rejected(f"pixels of mode {image.mode}") from None


def _square(image: Image.Image, recipe: ImageRecipe) -> Image.Image:
    """Crop, then fit, then one area filter down to the resolution (Pillow's BOX; an exact mean at whole ratios)."""
    left, top, right, bottom = _box(image.size, recipe)
    width, height = right - left, bottom - top
    resolution = recipe.resolution
    if min(width, height) < 1:
        raise Rejected(f"nothing is left of {image.width}x{image.height} pixels after the crop")
    smaller = max(width, height) if recipe.fit == "pad" else min(width, height)
    if smaller < resolution and not recipe.allow_upscale:
        raise Rejected(
            f"{width}x{height} pixels after the crop, smaller than the resolution {resolution} (allow_upscale is off)"
        )
    if recipe.fit != "pad" or width == height:
        return _resize(image, (resolution, resolution), (left, top, right, bottom))
    scale = resolution / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    canvas = Image.new("RGB", (resolution, resolution), recipe.background)
    offset = (resolution - inner[0]) // 2, (resolution - inner[1]) // 2
    canvas.paste(_resize(image, inner, (left, top, right, bottom)), offset)
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


def _resize(image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    larger = size[0] > box[2] - box[0] or size[1] > box[3] - box[1]
    return image.resize(size, Image.Resampling.BICUBIC if larger else Image.Resampling.BOX, box=box)


def encode_speech(path: Path, recipe: AudioRecipe) -> tuple[bytes, int]:
    """An audio file as mono PCM16 FLAC at the recipe's rate, its beginning if it is longer than `max_seconds`.

    PCM16 mono at that rate already is stored sample for sample.

    Returns:
        The encoded bytes and the number of samples.

    Raises:
        Rejected: missing, unreadable, empty, or not finite.
    """
    if not path.is_file():
        raise Rejected("no such file")
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            channels = file.read(math.ceil(recipe.max_seconds * rate), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
        raise Rejected(f"unreadable audio: {' '.join(str(error).split())}") from None
    if not len(channels):
        raise Rejected("audio without samples")
    if not np.isfinite(channels).all():
        raise Rejected("audio with values that are not finite")
    wave = channels.mean(axis=1, dtype=np.float64).astype(np.float32)
    if rate != recipe.sample_rate_hz:
        wave = _resample(wave, rate, recipe.sample_rate_hz)
    wave = wave[: math.floor(recipe.max_seconds * recipe.sample_rate_hz)]
    pcm = np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)
    stream = io.BytesIO()
    soundfile.write(stream, pcm, recipe.sample_rate_hz, format="FLAC", subtype="PCM_16")
    return stream.getvalue(), len(pcm)


def _resample(wave: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Band-limited resampling, on one thread: the order of a sum must not depend on how many cores there are."""
    import torch  # here, since most corpora have one rate and torch takes seconds to load

    divisor = math.gcd(rate, target)
    if (target // divisor) * (rate // divisor) > KERNEL_ELEMENTS_MAX:
        raise Rejected(f"a sample rate of {rate} Hz, which shares no useful divisor with {target} Hz")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _resampler(rate, target)(torch.from_numpy(wave)).numpy()
    finally:
        torch.set_num_threads(threads)


@functools.lru_cache(maxsize=8)
def _resampler(rate: int, target: int):
    import torchaudio

    return torchaudio.transforms.Resample(rate, target)


def clean_caption(text: str) -> str:
    """Unicode NFC, white space and line breaks as single spaces, nothing that does not print; may be empty."""
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():
        text = "".join(
            " " if character.isspace() else "" if unicodedata.category(character).startswith("C") else character
            for character in text
        )
    return " ".join(text.split())
