"""One raw image, voice or caption into what is stored. Pure functions: the same file and recipe, the same bytes."""

import functools
import io
import math
import unicodedata
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from PIL import ExifTags, Image

from t2f_dist.config.recipe import AudioRecipe, ImageRecipe
from t2f_dist.shard import levels
from t2f_dist.shard.picture import Rejected, opened, rgb, square
from t2f_dist.shard.sources import File, Ref
from t2f_dist.storage.patience import Unreachable

_PNG_RGB8 = b"\x08\x02"  # in its header: 8 bits a channel, colours without a palette or transparency
MARKS_MAX = 30  # as in Unicode's stream-safe text format
KERNEL_ELEMENTS_MAX = 20_000_000
_DAMAGED = (soundfile.SoundFileError, RuntimeError, OSError, ValueError)  # what a broken voice makes of its readers


class Encoded(NamedTuple):
    content: bytes
    levels: bytes  # the levels record (`t2f_dist.shard.levels`)
    size: tuple[int, int]  # width and height in pixels that the picture had, upright


def encode_image(content: Ref, recipe: ImageRecipe) -> Encoded:
    """An image, wherever its bytes stand, as a square JPEG or PNG of the recipe's resolution, 8-bit RGB.

    With `pass_through`, one that is that already keeps its bytes.

    Raises:
        Rejected: not readable, or smaller than the resolution and `allow_upscale` is off.
    """
    given = b""

    def read() -> bytes:
        nonlocal given
        given = content.read()
        return given

    image, size = opened(read, recipe)
    image = rgb(image, recipe)
    if recipe.pass_through and size == (recipe.resolution, recipe.resolution) and _is_as_wanted(given, recipe):
        return Encoded(given, levels.record(image), size)
    image = square(image, recipe, size=size)
    stream = io.BytesIO()
    if recipe.format == "jpg":
        image.save(stream, "JPEG", quality=recipe.quality, subsampling=0)
    else:
        image.save(stream, "PNG")
    return Encoded(stream.getvalue(), levels.record(image), size)


def _is_as_wanted(content: bytes, recipe: ImageRecipe) -> bool:
    """Whether the bytes of a picture, which can be decoded, are what its encoding is to be; its size is known."""
    if recipe.crop_fraction != 1 or recipe.crop_box is not None or recipe.swap_red_blue:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd metadata
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            if recipe.format == "png" and content[24:26] != _PNG_RGB8:
                return False
            return (
                image.format == {"jpg": "JPEG", "png": "PNG"}[recipe.format]
                and image.mode == "RGB"
                and not image.has_transparency_data
                and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
                and getattr(image, "n_frames", 1) == 1
            )


def encode_speech(voice: Path | File, recipe: AudioRecipe) -> tuple[bytes, int]:
    """An audio file as mono PCM16 FLAC at the recipe's rate, its beginning if it is longer than `max_seconds`.

    PCM16 mono at that rate already is stored sample for sample.

    Args:
        voice: of a path, what cannot be read is Rejected, whatever the cause.

    Returns:
        The encoded bytes and the number of samples.

    Raises:
        Rejected: missing, unreadable, empty, or not finite.
        Unreachable: it could not be asked for, so that nothing is known of it.
    """
    channels, rate = _heard(voice, recipe.max_seconds)
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


def _heard(voice: Path | File, seconds: float) -> tuple[np.ndarray, int]:
    """The first seconds, float32 [samples, channels], and the sample rate."""
    path = voice if isinstance(voice, Path) else voice.path
    if isinstance(voice, Path) and not voice.is_file():
        raise Rejected("no such file")
    try:
        if path is not None and path.is_file():
            try:
                return _decoded(path, seconds)  # which reads it as far as it is wanted
            except _DAMAGED:
                if isinstance(voice, Path):
                    raise
        # Of a local file libsndfile says "System error" for damage as for a disk that failed: here only one is left.
        assert isinstance(voice, File)
        return _decoded(io.BytesIO(voice.read()), seconds)
    except Unreachable:
        raise
    except FileNotFoundError:
        raise Rejected("no such file") from None
    except _DAMAGED as error:
        # Without the name of the file, which differs from one place of a corpus to another.
        text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
        raise Rejected(f"unreadable audio: {' '.join(text.split())}") from None


def _decoded(source: Path | io.BytesIO, seconds: float) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(source) as file:
        rate = file.samplerate
        return file.read(math.ceil(seconds * rate), dtype="float32", always_2d=True), rate


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


def _with_few_marks(text: str) -> str:
    """Marks in a row are put in order by time that grows with the square of their number: minutes for a megabyte."""
    kept, run = [], 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run <= MARKS_MAX:
            kept.append(character)
    return "".join(kept)


def clean_caption(text: str) -> str:
    """Unicode NFC, white space and line breaks as single spaces, nothing that does not print; may be empty.

    Of more than MARKS_MAX combining marks in a row the rest is dropped.
    """
    text = unicodedata.normalize("NFC", text if text.isascii() else _with_few_marks(text))
    if not text.isprintable():
        text = "".join(
            " " if character.isspace() else "" if unicodedata.category(character).startswith("C") else character
            for character in text
        )
    return " ".join(text.split())
