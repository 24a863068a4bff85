"""The small file of a shard: raw small pictures and captions, so that early stages read no JPEG.

A progressive run spends its first stages at 4 to 32 pixels. There a sample costs one read of 4 kB at most, and of
remote shards only this file is fetched, a small part of the tar's size. For each sample in the order of the tar:

- a levels record: four little-endian u4, the CRC32 of each level (0 where absent); then each level's pixels, uint8 in
  planes [3, r, r], for r = 4, 8, 16, 32 as far as the image's resolution reaches;
- its captions, as in the tar.

Levels are reduced by a box filter from the picture as it was before its JPEG was written: the largest in one step, each
smaller one from that. They differ from the decoded and reduced JPEG by what JPEG changed, and by rounding: for
photographs of 64 pixels and more by 1 in 255 on average and at most 16.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

LEVELS = (4, 8, 16, 32)
HEADER_BYTES = 4 * len(LEVELS)
# The record up to and with each level.
ENDS = {4: 64, 8: 256, 16: 1024, 32: 4096}
assert {level: HEADER_BYTES + sum(3 * r * r for r in LEVELS if r <= level) for level in LEVELS} == ENDS


def record(image: Image.Image) -> bytes:
    """The levels record of a square RGB image whose side is a power of two, at least 4."""
    assert image.mode == "RGB" and image.width == image.height and not image.width & (image.width - 1)
    largest = min(image.width, LEVELS[-1])
    if image.width > largest:
        image = image.reduce(image.width // largest)
    pixels: dict[int, bytes] = {}
    while image.width >= LEVELS[0]:
        pixels[image.width] = np.asarray(image).transpose(2, 0, 1).tobytes()
        if image.width == LEVELS[0]:
            break
        image = image.reduce(2)
    crcs = [zlib.crc32(pixels[level]) if level in pixels else 0 for level in LEVELS]
    return struct.pack("<4I", *crcs) + b"".join(pixels[level] for level in LEVELS if level in pixels)


def num_bytes(resolution: int) -> int:
    """The length of the levels record of an image of a resolution (4 or more)."""
    return ENDS[min(resolution, LEVELS[-1])]


def parse(content: bytes, resolution: int) -> np.ndarray:
    """One level of a record, which may go on after it: uint8 [3, r, r].

    Raises:
        ValueError: the record is too short, or the level's checksum does not match.
    """
    end = ENDS[resolution]
    if len(content) < end:
        raise ValueError(f"level {resolution}: {len(content)} bytes where {end} are needed")
    pixels = memoryview(content)[end - 3 * resolution * resolution : end]
    (crc,) = struct.unpack_from("<I", content, 4 * LEVELS.index(resolution))
    if zlib.crc32(pixels) != crc:
        raise ValueError(f"level {resolution}: its checksum does not match")
    return np.frombuffer(pixels, dtype=np.uint8).reshape(3, resolution, resolution)
