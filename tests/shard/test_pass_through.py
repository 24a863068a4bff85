"""Images that are as the recipe wants them keep their bytes, and no others do."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2f_dist.config.recipe import ImageRecipe
from t2f_dist.inspection.verify import verify
from t2f_dist.shard import levels
from t2f_dist.shard.build import build
from t2f_dist.shard.encode import encode_image
from t2f_dist.shard.picture import Rejected
from t2f_dist.shard.sources import File
from tests.shard.raw import Corpus
from tests.shard.test_build import stored

SIDE = 16


def picture(side: int = SIDE, mode: str = "RGB") -> Image.Image:
    pixels = np.random.Generator(np.random.Philox(key=side)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image, format: str, **options) -> bytes:  # noqa: A002
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def encoded(content: bytes, folder: Path, **recipe):
    (folder / "x").write_bytes(content)
    return encode_image(File(str(folder), "x"), ImageRecipe(**{"resolution": SIDE, "pass_through": True} | recipe))


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("JPEG", {"quality": 70}),
        ("JPEG", {"quality": 70, "progressive": True, "subsampling": 2}),
        ("JPEG", {"exif": exif(1)}),
        ("PNG", {}),
        ("PNG", {"compress_level": 1}),
    ],
)
def test_the_bytes_are_kept(tmp_path: Path, name: str, options: dict):
    content = saved(picture(), name, **options)
    recipe = {"format": {"JPEG": "jpg", "PNG": "png"}[name]}
    found = encoded(content, tmp_path, **recipe)
    assert found.content == content
    assert found.size == (SIDE, SIDE)
    with Image.open(io.BytesIO(content)) as image:
        assert found.levels == levels.record(image.convert("RGB"))
    assert encoded(content, tmp_path, **recipe, pass_through=False).content != content or name == "PNG"


def deep() -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads as RGB and never writes."""
    import struct
    import zlib

    rows = b"".join(b"\0" + bytes(range(SIDE * 6)) for _ in range(SIDE))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


OTHERS = [
    (saved(picture(), "JPEG"), {"format": "png"}),
    (saved(picture(), "PNG"), {"format": "jpg"}),
    (saved(picture(32), "JPEG"), {}),
    (saved(picture(), "JPEG", exif=exif(3)), {}),
    (saved(picture(mode="L"), "JPEG"), {}),
    (saved(picture(mode="CMYK"), "JPEG"), {}),
    (saved(picture(mode="RGBA"), "PNG"), {"format": "png"}),
    (saved(picture(mode="P"), "PNG"), {"format": "png"}),
    (saved(picture(), "PNG", transparency=(1, 2, 3)), {"format": "png"}),
    (saved(picture(), "PNG", save_all=True, append_images=[picture(mode="L").convert("RGB")]), {"format": "png"}),
    (deep(), {"format": "png"}),
    (saved(picture(), "JPEG"), {"swap_red_blue": True}),
    (saved(picture(), "JPEG"), {"crop_fraction": 0.9, "allow_upscale": True}),
    (saved(picture(), "JPEG"), {"crop_box": [0, 0, 1, 1]}),
]


@pytest.mark.parametrize(("content", "recipe"), OTHERS)
def test_what_is_anything_else_is_encoded(tmp_path: Path, content: bytes, recipe: dict):
    found = encoded(content, tmp_path, **recipe)
    assert found.content != content
    assert found == encoded(content, tmp_path, **recipe, pass_through=False)
    with Image.open(io.BytesIO(found.content)) as image:
        assert (image.mode, image.size) == ("RGB", (SIDE, SIDE))


def test_it_is_decoded_all_the_same(tmp_path: Path):
    content = saved(picture(), "JPEG")
    with pytest.raises(Rejected):
        encoded(content[: len(content) // 2], tmp_path)


def test_in_a_build(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=8)
    recipe = corpus.recipe(tmp_path / "out", image={"resolution": 32, "allow_upscale": True, "pass_through": True})
    given = {}
    for number, row in enumerate(corpus.rows):
        if number % 3 and row["image"].endswith("jpg"):
            given[row["image"]] = saved(picture(32), "JPEG", quality=50 + number)
            (corpus.faces / row["image"]).write_bytes(given[row["image"]])
    build(recipe, workers=1, progress=False)
    found = stored(tmp_path / "out")
    assert given
    assert {name for name in found if found[name]["image"] == (corpus.faces / name).read_bytes()} == given.keys()
    assert verify(tmp_path / "out", decode=True, progress=False) == []
