"""Images, voices and captions into what is stored."""

import io
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t2f_dist.config.recipe import AudioRecipe, ImageRecipe
from t2f_dist.shard.encode import Rejected, clean_caption, encode_image, encode_speech
from t2f_dist.shard.sources import File
from t2f_dist.storage.disk import Disk
from t2f_dist.storage.patience import Unreachable
from tests.shard.raw import speak


def image_file(path: Path) -> File:
    return File(str(path.parent), path.name)


def pixels(path: Path, **recipe) -> np.ndarray:
    """What is stored of an image, losslessly: [H, W, 3]."""
    content, *_ = encode_image(image_file(path), ImageRecipe(**{"resolution": 8, "format": "png"} | recipe))
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    random = np.random.Generator(np.random.Philox(key=height * width))
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_whole_ratios_are_exact_means(tmp_path: Path, factor: int):
    image = noise(8 * factor, 8 * factor)
    Image.fromarray(image).save(tmp_path / "a.png")
    blocks = image.reshape(8, factor, 8, factor, 3).mean(axis=(1, 3))
    assert np.abs(pixels(tmp_path / "a.png") - blocks).max() <= 1.0  # Pillow rounds after each of the two axes


@pytest.mark.parametrize(("height", "width"), [(8, 24), (24, 8), (9, 25)])
def test_centre_crop(tmp_path: Path, height: int, width: int):
    image = noise(height, width)
    Image.fromarray(image).save(tmp_path / "a.png")
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    Image.fromarray(image[top : top + side, left : left + side]).save(tmp_path / "b.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_crops_by_fraction_and_by_box_agree(tmp_path: Path):
    image = noise(32, 32)
    Image.fromarray(image).save(tmp_path / "a.png")
    centre = pixels(tmp_path / "a.png", crop_fraction=0.25)
    assert np.array_equal(centre, image[12:20, 12:20])
    assert np.array_equal(centre, pixels(tmp_path / "a.png", crop_box=(0.375, 0.375, 0.625, 0.625)))
    corner = pixels(tmp_path / "a.png", crop_box=(0.75, 0, 1, 0.25))
    assert np.array_equal(corner, image[:8, 24:])


def test_pad_and_stretch(tmp_path: Path):
    Image.new("RGB", (16, 8), "#ff0000").save(tmp_path / "a.png")
    padded = pixels(tmp_path / "a.png", fit="pad", background="#0000ff")
    assert (padded[2:6] == (255, 0, 0)).all()
    assert (padded[:2] == (0, 0, 255)).all()
    assert (padded[6:] == (0, 0, 255)).all()
    assert (pixels(tmp_path / "a.png", fit="stretch") == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int):
    """One upright picture, stored turned in each of the eight ways that EXIF knows."""
    upright = Image.fromarray(noise(8, 8))
    undo = [None, None, 0, 3, 1, 5, 2, 6, 4][orientation]  # the inverse of Pillow's transposition for it
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "a.png"), np.asarray(upright))


def test_alpha_shows_the_background(tmp_path: Path):
    image = np.zeros((8, 8, 4), dtype=np.uint8)
    image[:, :4] = (10, 20, 30, 255)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert (pixels(tmp_path / "a.png")[:, 4:] == 255).all()
    assert (pixels(tmp_path / "a.png", background="#010203")[:, 4:] == (1, 2, 3)).all()
    assert (pixels(tmp_path / "a.png", background="#010203")[:, :4] == (10, 20, 30)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr"])
def test_every_mode_that_files_have(tmp_path: Path, mode: str):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((8, 8), 200 * 257, dtype=np.uint16)).save(path)
    else:
        grey = Image.new("RGB", (8, 8), (200, 200, 200) if mode != "1" else (255, 255, 255))
        grey.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    value = 255 if mode == "1" else 200
    assert np.abs(pixels(path).astype(int) - value).max() <= 1


def test_jpeg_keeps_full_colour(tmp_path: Path):
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.png")
    content, _, size = encode_image(image_file(tmp_path / "a.png"), ImageRecipe(resolution=64))
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG"
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}  # pyright: ignore[reportAttributeAccessIssue]
    assert size == (64, 64)
    assert encode_image(image_file(tmp_path / "a.png"), ImageRecipe(resolution=64))[0] == content


def test_small_images(tmp_path: Path):
    Image.fromarray(noise(7, 40)).save(tmp_path / "a.png")
    with pytest.raises(Rejected, match="7x7 pixels after the crop, smaller than the resolution 8"):
        pixels(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png", allow_upscale=True).shape == (8, 8, 3)
    Image.fromarray(noise(8, 8)).save(tmp_path / "b.png")
    with pytest.raises(Rejected, match="4x4 pixels after the crop"):
        pixels(tmp_path / "b.png", crop_fraction=0.5)


def test_bad_images(tmp_path: Path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(noise(64, 64)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    for name in ("text.jpg", "empty.jpg", "cut.jpg", "program.jpg"):
        with pytest.raises(Rejected, match="unreadable image"):
            pixels(tmp_path / name)
    with pytest.raises(Rejected, match="no such file"):
        pixels(tmp_path / "nowhere.jpg")


def test_a_decompression_bomb_is_not_opened(tmp_path: Path):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "a.png")
    with pytest.raises(Rejected, match="more than"):
        pixels(tmp_path / "a.png")


@contextmanager
def no_more_files() -> Iterator[None]:
    """Every open fails, as in a process that has too many files open (EMFILE)."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("befell", ["open files", "removed", "dangling", "folder"])
@pytest.mark.parametrize("kind", ["image", "voice"])
def test_what_befalls_a_listed_file_says_nothing_of_it(tmp_path: Path, kind: str, befell: str):
    path = tmp_path / "x"
    Image.fromarray(noise(8, 8)).save(path, "PNG") if kind == "image" else speak(tmp_path / "x.wav", 1)
    if kind == "voice":
        (tmp_path / "x.wav").rename(path)
    (entry,) = Disk(tmp_path).list("")
    file = File(str(tmp_path), *entry)

    def made() -> bytes:
        encode = (
            encode_image(file, ImageRecipe(resolution=8)) if kind == "image" else encode_speech(file, AudioRecipe())
        )
        return encode[0]

    before = made()
    if befell == "open files":
        with no_more_files(), pytest.raises(Unreachable, match=f"{path}: Too many open files"):
            made()
    else:
        path.rename(tmp_path / "y")
        if befell == "dangling":
            path.symlink_to("nowhere")
        elif befell == "folder":
            path.mkdir()
        with pytest.raises(Unreachable, match=f"{path}: a file when the corpus was listed, and now none"):
            made()
        if befell != "removed":
            path.rmdir() if befell == "folder" else path.unlink()
        (tmp_path / "y").rename(path)
    assert made() == before


def test_a_link_to_nothing_that_was_listed_is_refused(tmp_path: Path):
    (tmp_path / "x").symlink_to("nowhere")
    (entry,) = Disk(tmp_path).list("")
    with pytest.raises(Rejected, match="no such file"):
        encode_image(File(str(tmp_path), *entry), ImageRecipe(resolution=8))
    with pytest.raises(Rejected, match="no such file"):
        encode_speech(File(str(tmp_path), *entry), AudioRecipe())


def stored_speech(path: Path, **recipe) -> tuple[np.ndarray, int]:
    content, samples = encode_speech(path, AudioRecipe(**recipe))
    assert content[:4] == b"fLaC"
    pcm, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert pcm.shape == (samples,)
    return pcm, rate


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_mono_at_the_rate_is_kept_sample_for_sample(tmp_path: Path, suffix: str):
    pcm = speak(tmp_path / f"a.{suffix}", seed=1)
    pcm[0], pcm[1] = -32768, 32767
    soundfile.write(tmp_path / f"a.{suffix}", pcm, 16_000, subtype="PCM_16")
    stored, rate = stored_speech(tmp_path / f"a.{suffix}")
    assert rate == 16_000
    assert np.array_equal(stored, pcm[:, 0])


def test_stereo_is_mixed_and_long_speech_is_cut(tmp_path: Path):
    stereo = np.zeros((16_000, 2), dtype=np.int16)
    stereo[:, 0] = 1000
    soundfile.write(tmp_path / "a.wav", stereo, 16_000)
    stored, _ = stored_speech(tmp_path / "a.wav", max_seconds=0.25)
    assert np.array_equal(stored, np.full(4000, 500))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_pitch_loudness_and_length(tmp_path: Path, rate: int):
    speak(tmp_path / "a.wav", seed=12, rate=rate, seconds=0.5)  # 440 Hz
    stored, _ = stored_speech(tmp_path / "a.wav")
    assert abs(len(stored) - 8000) <= 1
    middle = stored[1000:7000] / 32768
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * 16_000 / len(middle) - 440) < 3
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_compressed_speech(tmp_path: Path, suffix: str):
    times = np.arange(16_000) / 16_000
    soundfile.write(tmp_path / f"a.{suffix}", 0.5 * np.sin(2 * np.pi * 440 * times), 16_000)
    stored, _ = stored_speech(tmp_path / f"a.{suffix}")
    spectrum = np.abs(np.fft.rfft(stored[:16_000]))
    assert abs(spectrum.argmax() * 16_000 / min(len(stored), 16_000) - 440) < 3


def test_bad_speech(tmp_path: Path):
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "odd.wav", np.zeros(100), 15_991)
    for name, reason in {
        "text.wav": "unreadable audio",
        "empty.wav": "without samples",
        "nan.wav": "not finite",
        "odd.wav": "15991 Hz",
        "nowhere.wav": "no such file",
    }.items():
        refused = set()
        for voice in (tmp_path / name, image_file(tmp_path / name)):
            with pytest.raises(Rejected, match=reason) as caught:
                encode_speech(voice, AudioRecipe())
            refused.add(str(caught.value))
        assert len(refused) == 1 and str(tmp_path) not in refused.pop(), "the same reason, wherever it stands"


def test_captions_are_cleaned():
    assert (
        clean_caption("  A man,\n\twith\r\n\u2028hair\u00a0and \ufeffa\u200b hat\x00 ") == "A man, with hair and a hat"
    )
    assert clean_caption("cafe\u0301") == "caf\u00e9"
    assert clean_caption("\n \x07\u200b") == ""


@given(st.text())
def test_a_clean_caption_is_one_line_and_stays_clean(text: str):
    caption = clean_caption(text)
    assert len(caption.splitlines()) == bool(caption)
    assert clean_caption(caption) == caption


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(("width", "height"), [(512, 512), (1024, 512), (1000, 611), (512, 1024)])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_jpeg_of_reduced_scale_is_near_to_the_whole_one(
    tmp_path: Path, width: int, height: int, orientation: int, fit: str
):
    """A smooth picture with edges; noise at the scale of single pixels is what a reduced transform does not keep."""
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([128 + 80 * np.sin(rows / 40), columns * 255 / width, 60 + (rows + columns) % 160], axis=-1)
    smooth[height // 4 : height // 2, width // 3 : width // 2] = 250, 10, 60
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    recipe = {"resolution": 64, "fit": fit}
    reduced, whole = (pixels(tmp_path / "a.jpg", **recipe, jpeg_decoding=way) for way in ("reduced", "whole"))
    difference = np.abs(reduced.astype(int) - whole)
    assert difference.mean() < 1.5 and np.percentile(difference, 99) < 24
    assert encode_image(image_file(tmp_path / "a.jpg"), ImageRecipe(**recipe)).size == (
        (height, width) if orientation in (6, 8) else (width, height)
    )
