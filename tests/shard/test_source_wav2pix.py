"""Folders of wav2pix: crops and voices that share a number, red and blue exchanged."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2f_dist.config.recipe import ImageRecipe, ShardRecipe
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.build import build
from t2f_dist.shard.encode import encode_image
from t2f_dist.shard.manifest import Manifest
from t2f_dist.shard.sources import File
from tests.shard.raw import draw, planned, reasons, speak


@pytest.fixture
def speakers(tmp_path: Path) -> Path:
    """Two speakers with the same numbers; a voice named as its crop, one without a crop, a crop without a voice."""
    root = tmp_path / "wav2pix"
    for seed, speaker in enumerate(("ana", "ben")):
        for frame in (5, 15, 25):
            draw(root / speaker / f"cropped_face_frame_{frame}.png", seed)
            if frame != 25:
                speak(root / speaker / f"preprocessed_frame_{frame}.wav", seed)
    speak(root / "ben" / "cropped_face_frame_25.wav", 3)
    speak(root / "ben" / "preprocessed_frame_35.wav", 3)
    speak(root / "ana" / "noise.wav", 3)
    return root


def test_crops_and_voices_are_paired_within_a_speaker(speakers: Path):
    found, entries = planned(layout="wav2pix", faces=str(speakers))
    voices = {path: entry.voice.source for path, entry in entries.items()}
    assert voices == {
        f"{speaker}/cropped_face_frame_{frame}.png": f"{speaker}/preprocessed_frame_{frame}.wav"
        for speaker in ("ana", "ben")
        for frame in (5, 15)
    } | {"ben/cropped_face_frame_25.png": "ben/cropped_face_frame_25.wav"}
    assert {path: entry.identity for path, entry in entries.items()} == {path: path[:3] for path in entries}
    assert reasons(found, "voices") == {
        "ben/preprocessed_frame_35.wav": "names no image",
        "ana/noise.wav": "names no image",
    }
    assert reasons(found, "images") == {"ana/cropped_face_frame_25.png": "no caption or voice names it"}


def test_two_crops_of_a_number_and_two_voices_of_a_crop(tmp_path: Path):
    for name in ("a_frame_1.png", "b_frame_1.png", "a_frame_2.png"):
        draw(tmp_path / "ana" / name, 1)
    for name in ("x_frame_1.wav", "x_frame_2.wav", "y_frame_2.wav"):
        speak(tmp_path / "ana" / name, 1)
    found, entries = planned(layout="wav2pix", faces=str(tmp_path))
    assert set(entries) == {"ana/a_frame_2.png"}
    assert "fits 2 images" in reasons(found, "voices")["ana/x_frame_1.wav"]
    assert "has a voice already" in reasons(found, "voices")["ana/a_frame_2.png"]


def stored(path: Path, **recipe) -> np.ndarray:
    content, *_ = encode_image(File(str(path.parent), path.name), ImageRecipe(resolution=16, format="png", **recipe))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_red_and_blue_are_swapped_back(tmp_path: Path):
    draw(tmp_path / "a.png", 1)
    assert np.array_equal(stored(tmp_path / "a.png", swap_red_blue=True), stored(tmp_path / "a.png")[:, :, ::-1])


def test_the_swap_leaves_the_background(tmp_path: Path):
    image = np.zeros((16, 32, 4), dtype=np.uint8)
    image[:, :16] = (10, 20, 30, 255)
    Image.fromarray(image).save(tmp_path / "a.png")
    found = stored(tmp_path / "a.png", swap_red_blue=True, fit="pad", background="#010203", allow_upscale=True)
    assert (found[4:12, :8] == (30, 20, 10)).all()
    assert (found[4:12, 8:] == (1, 2, 3)).all()
    assert (found[:4] == (1, 2, 3)).all()


def mean_colour(directory: Path) -> np.ndarray:
    """The mean of the middle of every face, [3]."""
    manifest = Manifest.load(directory)
    means = []
    for shard in manifest.shards("train"):
        descriptor = shard_format.open_shard(directory / shard.name, shard)
        for record in shard_format.open_index(directory / shard.index, shard):
            face = np.asarray(Image.open(io.BytesIO(shard_format.member(descriptor, record, "image"))))
            means.append(face[16:48, 16:48].mean(axis=(0, 1)))
        os.close(descriptor)
    return np.mean(means, axis=0)


def test_real_speakers(tmp_path: Path):
    root = os.environ.get("T2F_REAL_DATA")
    if not root:
        pytest.skip("T2F_REAL_DATA does not name a folder with wav2pix/")
    colours = {}
    for swap in (True, False):
        recipe = ShardRecipe(
            layout="wav2pix",
            faces=str(Path(root) / "wav2pix"),
            out=str(tmp_path / f"out_{swap}"),
            image={"resolution": 64, "swap_red_blue": swap},
            split={"validation": 0, "test": 0},
        )
        manifest = build(recipe, workers=1, progress=False)
        assert manifest.totals["images"].model_dump() == {"found": 80, "stored": 80, "rejected": 0, "unmatched": 0}
        assert manifest.totals["voices"].stored == 80
        assert json.loads((tmp_path / f"out_{swap}" / "manifest.json").read_text())["sample_rate_hz"] == 16_000
        colours[swap] = mean_colour(tmp_path / f"out_{swap}")
    red, _, blue = colours[True]
    assert red > blue + 10, "skin is redder than blue"
    assert colours[False][2] > colours[False][0] + 10, "and as published it is not"
