"""Small files that claim to be large, or that take long: what a reader must refuse before it believes them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, extra: bytes = b"", depth: int = 8, colour: int = 2, whole: bool = True) -> bytes:
    """Zeros of any size; `extra` chunks come before the pixels."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + -(-width * samples * depth // 8))
    squeeze = zlib.compressobj(9)
    pixels = b"".join(squeeze.compress(row) for _ in range(height if whole else 1)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def text_chunks() -> bytes:
    """Text that is a thousand times larger than it is compressed."""
    squeezed = zlib.compress(bytes(1 << 26), 9)
    return chunk(b"zTXt", b"Comment\0\0" + squeezed) + chunk(b"iCCP", b"profile\0\0" + squeezed)


def jpeg(width: int, height: int) -> bytes:
    """The header of a picture of another size."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def scans(num: int) -> bytes:
    """A progressive JPEG with so many passes over all of its pixels."""
    stream = io.BytesIO()
    noise = np.random.Generator(np.random.Philox(key=1)).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", progressive=True)
    content = bytearray(stream.getvalue())
    start = content.index(b"\xff\xc2")
    content[start + 5 : start + 9] = struct.pack(">HH", 8000, 8000)
    last = content.rindex(b"\xff\xda")
    return bytes(content[:last]) + bytes(content[last:-2]) * num + b"\xff\xd9"


def webp(width: int, height: int) -> bytes:
    """An animation with a canvas of any size and a frame of nearly nothing."""
    stream = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    content = bytearray(stream.getvalue())
    start = content.index(b"VP8X") + 12
    content[start : start + 6] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(content)


def gif(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("P", (16, 16)).save(stream, "GIF")
    content = bytearray(stream.getvalue())
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def tiff(width: int, height: int) -> bytes:
    """One strip of deflated zeros that claims the whole picture."""
    strip = zlib.compress(bytes(1 << 20), 9)
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8),
        (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(strip)),
    ]  # fmt: skip
    place = 8 + len(strip)
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", place) + strip + directory + bytes(4)


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + header + bytes(100)


def tga(width: int, height: int) -> bytes:
    """Run-length encoded: four bytes for each 128 pixels."""
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, width, height, 24, 0)
    return header + b"\xff\0\0\0" * 1000


def jpeg2000(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "JPEG2000", no_jp2=True)
    content = bytearray(stream.getvalue())
    start = content.index(b"\xff\x51") + 6
    content[start : start + 8] = struct.pack(">II", width, height)
    return bytes(content)


def avif(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "AVIF")
    content = bytearray(stream.getvalue())
    start = content.index(b"ispe") + 8
    content[start : start + 8] = struct.pack(">II", width, height)
    return bytes(content)


def flac(seconds: int, rate: int = 16_000, channels: int = 1) -> bytes:
    """A short voice whose header claims to be long."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, np.zeros((1600, channels), np.int16), 16_000, format="FLAC", subtype="PCM_16")
    content = bytearray(stream.getvalue())
    packed = int.from_bytes(content[18:26], "big")
    packed = (rate << 44) | (packed & ((1 << 44) - 1) & ~((1 << 36) - 1)) | (seconds * rate & ((1 << 36) - 1))
    content[18:26] = packed.to_bytes(8, "big")
    return bytes(content)


IMAGES = {
    "png of 60,000 pixels": lambda: png(60_000, 60_000, whole=False),
    "png of 60,000 pixels in one bit": lambda: png(60_000, 60_000, depth=1, colour=0, whole=False),
    "png with a claim of the most": lambda: _claim(),
    "png of text": lambda: png(64, 64, text_chunks()),
    "jpeg of 65,500 pixels": lambda: jpeg(65_500, 65_500),
    "jpeg of 3,000 passes": lambda: scans(3_000),
    "webp of 16,383 pixels": lambda: webp(16_383, 16_383),
    "webp of 16 million pixels": lambda: webp(1 << 24, 1 << 24),
    "gif of 65,535 pixels": lambda: gif(65_535, 65_535),
    "tiff of 60,000 pixels": lambda: tiff(60_000, 60_000),
    "tiff of 4 billion pixels": lambda: tiff(2**32 - 1, 2**32 - 1),
    "bmp of 2 billion pixels": lambda: bmp(2**31 - 1, 2**31 - 1),
    "tga of 65,535 pixels": lambda: tga(65_535, 65_535),
    "avif of 60,000 pixels": lambda: avif(60_000, 60_000),
    "jpeg 2000 of 2 billion pixels": lambda: jpeg2000(2**31 - 1, 2**31 - 1),
}


def _claim() -> bytes:
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))
