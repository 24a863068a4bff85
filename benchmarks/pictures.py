"""Pictures as large as photographs and as hard to decode: made, so that a benchmark needs no download.

Noise whose amplitude falls as 1/f, as in photographs (Field 1987), with soft and sharp ellipses over it. Each size is
the same pictures, reduced. A folder holds many files of a few pictures: a comment in each JPEG makes its bytes its own.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

NUM_PICTURES = 48
LARGEST = 1024
QUALITY = 88  # as cameras and web sites write
WORDS = """
a woman man with long short dark fair red curly straight hair and brown blue green eyes who smiles looks away up down
at the light wears glasses hat scarf shirt coat in front of wall tree street window sky
"""


def folder(home: Path, size: int, count: int) -> Path:
    """`count` JPEGs of `size` pixels under `home`, with captions.csv; made once."""
    place = home / f"{size}px-{count}"
    if (place / "captions.csv").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    (place / "images").mkdir(parents=True)
    contents = [encoded(picture, size) for picture in pictures(home)]
    generator = np.random.default_rng(size)
    lines = ["image,caption"]
    for number in range(count):
        name = f"{number // 1000:03d}/{number:07d}.jpg"
        path = place / "images" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(numbered(contents[number % len(contents)], number))
        lines.append(f"{name},{' '.join(generator.choice(WORDS.split(), 14))}")
    (place / "captions.csv").write_text("\n".join(lines) + "\n")
    return place


def pictures(home: Path) -> list[Image.Image]:
    """RGB, of the largest size."""
    kept = home / "pictures"
    if not (kept / "made").exists():
        kept.mkdir(parents=True, exist_ok=True)
        for number in range(NUM_PICTURES):
            _drawn(number).save(kept / f"{number}.png", compress_level=1)
        (kept / "made").touch()
    return [Image.open(kept / f"{number}.png").convert("RGB") for number in range(NUM_PICTURES)]


def encoded(picture: Image.Image, size: int) -> bytes:
    stream = io.BytesIO()
    picture.resize((size, size), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def numbered(jpeg: bytes, number: int) -> bytes:
    """The same picture with a comment of 8 digits after the start of the image."""
    return jpeg[:2] + b"\xff\xfe\x00\x0a" + b"%08d" % number + jpeg[2:]


def _drawn(number: int) -> Image.Image:
    generator = np.random.default_rng(number)
    frequencies = np.hypot(np.fft.fftfreq(LARGEST)[:, None], np.fft.rfftfreq(LARGEST)[None])
    frequencies[0, 0] = np.inf
    amplitude = frequencies ** -generator.uniform(1.45, 1.7)
    shared = _noise(generator, amplitude)
    planes = [0.85 * shared + 0.25 * _noise(generator, amplitude) for _ in range(3)]
    tint = generator.uniform(-25, 25, 3)
    values = [125 + tint[channel] + 48 * plane for channel, plane in enumerate(planes)]
    image = Image.fromarray(np.stack(values, axis=-1).clip(0, 255).astype(np.uint8))
    shapes, mask = image.copy(), Image.new("L", image.size)
    for drawn in range(14):
        x, y = generator.uniform(0, LARGEST, 2)
        width, height = generator.uniform(20, 300, 2)
        box = [x - width, y - height, x + width, y + height]
        colour = tuple(int(value) for value in generator.uniform(20, 235, 3))
        ImageDraw.Draw(shapes).ellipse(box, fill=colour)
        ImageDraw.Draw(mask).ellipse(box, fill=int(generator.uniform(60, 200)))
        if drawn == 7:  # the first ones are out of focus
            mask = mask.filter(ImageFilter.GaussianBlur(12))
    return Image.composite(shapes, image, mask)


def _noise(generator: np.random.Generator, amplitude: np.ndarray) -> np.ndarray:
    field = np.fft.irfft2(np.fft.rfft2(generator.standard_normal((LARGEST, LARGEST))) * amplitude)
    return (field - field.mean()) / field.std()
