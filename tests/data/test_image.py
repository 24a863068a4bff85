"""Images at a smaller resolution: near to the whole picture, box-filtered, by whichever way they are read."""

import io

import numpy as np
import pytest
from PIL import Image

from t2f_dist.config.recipe import ImageRecipe
from t2f_dist.data.image import decode, decode_foreign
from t2f_dist.shard import levels
from t2f_dist.shard.format import DamagedSample
from t2f_dist.shard.picture import square
from tests.shard import bombs

SIDE = 256


def photograph(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Of the spectrum of photographs: amplitude falls as one over frequency; with an edge and a line."""
    rng = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    falling = 1 / np.maximum(np.hypot(fy, fx), 1 / max(width, height))
    waves = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * falling) for _ in range(3)]
    pixels = np.stack(waves, axis=-1)
    pixels = 128 + 45 * (pixels - pixels.mean()) / pixels.std()
    pixels[height // 3 : height // 2, width // 4 : width // 3] = 240, 20, 90
    pixels[:, width // 2] = 0
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    return stream.getvalue()


def reference(content: bytes, resolution: int) -> np.ndarray:
    """The whole picture, box-filtered."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(image.reduce(image.width // resolution)).transpose(2, 0, 1).astype(int)


@pytest.mark.parametrize("resolution", [4, 8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_jpeg_of_reduced_scale_is_near_to_the_whole_one(seed: int, resolution: int):
    content = encoded(photograph(seed), "JPEG")
    found = decode(content, resolution, SIDE).astype(int)
    difference = np.abs(found - reference(content, resolution))
    assert difference.mean() < 1 and difference.max() <= 16
    assert abs((found - reference(content, resolution)).mean()) < 0.5, "neither brighter nor darker"
    if resolution == SIDE:
        assert not difference.any()


@pytest.mark.parametrize("resolution", [4, 32, 128, 256])
def test_a_png_is_reduced_exactly(resolution: int):
    content = encoded(photograph(3), "PNG")
    assert np.array_equal(decode(content, resolution), reference(content, resolution))


@pytest.mark.parametrize("seed", [0, 1])
def test_levels_are_near_to_the_decoded_picture(seed: int):
    image = photograph(seed)
    record, content = levels.record(image), encoded(image, "JPEG")
    for resolution in levels.LEVELS:
        difference = np.abs(levels.parse(record, resolution).astype(int) - reference(content, resolution))
        assert difference.mean() < 1 and difference.max() <= 16


@pytest.mark.parametrize("side", [4, 8, 16, 32, 64, 1024])
def test_levels_are_box_filtered_and_reach_up_to_the_image(side: int):
    image = photograph(5, side, side)
    record = levels.record(image)
    assert len(record) == levels.num_bytes(side)
    for resolution in levels.LEVELS:
        if resolution > side:
            with pytest.raises(ValueError, match=f"level {resolution}"):
                levels.parse(record, resolution)
            continue
        exact = np.asarray(image, dtype=float).reshape(resolution, side // resolution, resolution, -1, 3).mean((1, 3))
        assert np.abs(levels.parse(record, resolution) - exact.transpose(2, 0, 1)).max() <= 2, "rounded at each step"


@pytest.mark.parametrize("resolution", levels.LEVELS)
def test_a_flipped_bit_damages_its_own_level_alone(resolution: int):
    record = levels.record(photograph(0))
    start = levels.ENDS[resolution] - 3 * resolution**2
    for at in (start, levels.ENDS[resolution] - 1, 4 * levels.LEVELS.index(resolution)):
        damaged = bytearray(record)
        damaged[at] ^= 16
        for other in levels.LEVELS:
            if other == resolution:
                with pytest.raises(ValueError, match="checksum"):
                    levels.parse(bytes(damaged), other)
            else:
                assert np.array_equal(levels.parse(bytes(damaged), other), levels.parse(record, other))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(256, 256), (321, 257), (200, 400)])
def test_a_foreign_picture_is_squared_as_when_it_is_sharded(fit: str, width: int, height: int):
    image = photograph(7, width, height)
    recipe = ImageRecipe.model_validate({"resolution": 64, "fit": fit, "crop_fraction": 0.9})
    for kind in ("JPEG", "PNG", "WEBP"):
        content = encoded(image, kind)
        whole = Image.open(io.BytesIO(content)).convert("RGB")
        for resolution in (16, 64):
            sized = recipe.model_copy(update={"resolution": resolution})
            expected = np.asarray(square(whole, sized)).transpose(2, 0, 1).astype(int)
            difference = np.abs(decode_foreign(content, resolution, recipe) - expected)
            assert difference.mean() < (3 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0" + b"0" * 40])
def test_what_is_no_image_is_damage(content: bytes):
    with pytest.raises(DamagedSample, match="image"):
        decode(content, 4)
    with pytest.raises(DamagedSample, match="image"):
        decode_foreign(content, 4, ImageRecipe())


def test_a_jpeg_that_takes_minutes_to_decode_is_damage():
    content = bombs.scans(200)
    for read in (lambda: decode(content, 4), lambda: decode_foreign(content, 4, ImageRecipe())):
        with pytest.raises(DamagedSample, match="image: a JPEG of more than 100 passes"):
            read()
    progressive = io.BytesIO()
    photograph(0).save(progressive, "JPEG", quality=95, progressive=True)
    assert decode(progressive.getvalue(), 32).shape == (3, 32, 32)


def test_an_image_of_another_side_is_damage():
    content = encoded(photograph(0, 64, 64), "JPEG")
    with pytest.raises(DamagedSample, match="64x64 pixels, not 128"):
        decode(content, 32, 128)
    with pytest.raises(DamagedSample, match="no whole reduction to 128"):
        decode(content, 128)
    with pytest.raises(DamagedSample, match="image"):
        decode(content[: len(content) // 2], 32)
