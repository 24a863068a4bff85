import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2f_dist.evaluation.conditions import Asked, Conditions
from t2f_dist.evaluation.sample import (
    SUFFIXES,
    check_suffix,
    faces_a_row,
    find_voices,
    read_captions,
    sample,
    save,
)
from t2f_dist.models.grid import LINE, MARGIN
from t2f_dist.models.snapshot import Snapshot
from tests.models.untrained import untrained
from tests.shard.raw import speak

TEXTS = ["A woman with red hair.", "a smiling man", "a man with green hair"]


@pytest.fixture(scope="module")
def faces() -> Snapshot:
    return untrained()


def asked(snapshot: Snapshot, *texts: str) -> Asked:
    return Conditions(snapshot).asked({"caption": list(texts)})


def drawn(snapshot: Snapshot, *texts: str, num: int, seed: int = 7) -> torch.Tensor:
    return sample(snapshot, Conditions(snapshot), asked(snapshot, *texts), num, seed)


def test_every_caption_gets_the_same_noise_column_by_column(faces: Snapshot):
    images = drawn(faces, *TEXTS, num=4)
    assert images.shape == (12, 3, 8, 8)
    assert torch.equal(drawn(faces, TEXTS[1], num=4), images[4:8])
    assert torch.equal(drawn(faces, *TEXTS, num=2)[2:4], images[4:6]), "more faces, same first"
    twice = drawn(faces, TEXTS[0], TEXTS[0].upper(), num=2)
    assert torch.equal(twice[:2], twice[2:]), "case and columns alone do not change a face"
    assert not torch.equal(images[:4], images[4:8])
    assert torch.equal(drawn(faces, *TEXTS, num=4), images)
    assert not torch.equal(drawn(faces, *TEXTS, num=4, seed=8), images)


def test_how_many_faces_a_row_has(faces: Snapshot):
    row, crossed = Asked(("a",), (), ({},)), Asked(("a",), ("b", "c"), ({}, {}))
    assert [faces_a_row(faces, row, num) for num in (None, 1, 20)] == [(8, ""), (1, ""), (20, "")]
    assert [faces_a_row(faces, crossed, num) for num in (None, 1)] == [(1, ""), (1, "")]
    with pytest.raises(ValueError, match="--num 2: columns are voices here"):
        faces_a_row(faces, crossed, 2)


def test_a_generator_without_noise_draws_one_face_and_says_so(tmp_path: Path):
    mute = untrained(recipe="wav2pix")
    assert mute.config.generator.z_size == mute.config.noise_size == 0
    row = Asked(("a",), (), ({},))
    num, note = faces_a_row(mute, row, None)
    assert num == 1
    assert "takes no noise" in note
    assert faces_a_row(mute, row, 1) == (1, "")
    augmented = untrained("generator.z_size=0")
    assert faces_a_row(augmented, row, 3) == (3, ""), "conditioning augmentation is noise too"
    speak(tmp_path / "a.wav", 3, seconds=0.5)
    conditions = Conditions(mute)
    asked = conditions.asked({"speech": [str(tmp_path / "a.wav")]})
    first, second = (sample(mute, conditions, asked, 1, seed) for seed in (0, 1))
    assert torch.equal(first, second)


def test_single_pictures_are_the_faces_to_the_bit_and_named_by_caption(faces: Snapshot, tmp_path: Path):
    texts = [*TEXTS, "a man / ../../red: " + "hair " * 40]
    images = drawn(faces, *texts, num=3)
    paths = save(images, asked(faces, *texts), tmp_path / "new/faces", as_folder=True)
    assert len(set(paths)) == 12
    assert sorted(paths) == paths == sorted((tmp_path / "new/faces").iterdir())
    assert paths[4].name == "001-a-smiling-man-001.png"
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as picture:
            assert (np.asarray(picture) == image.permute(1, 2, 0).numpy()).all()


def test_single_pictures_of_a_grid_are_named_by_both_and_without_a_condition_by_number(tmp_path: Path):
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    crossed = Asked(("A man", "Red"), ("Ann.wav", "../b.flac"), ({"caption": np.ones(1)},) * 4)
    names = [path.name for path in save(images, crossed, tmp_path / "crossed", as_folder=True)]
    expected = ["000-a-man-000-ann-wav", "000-a-man-001-b-flac", "001-red-000-ann-wav", "001-red-001-b-flac"]
    assert names == [f"{name}.png" for name in expected]
    names = [path.name for path in save(images, Asked(("",), (), ({},)), tmp_path / "none", as_folder=True)]
    assert names == [f"000-{number:03d}.png" for number in range(4)]


@pytest.mark.parametrize(("num", "rows", "columns"), [(1, 1, 1), (8, 1, 8), (10, 2, 5), (17, 3, 6), (100, 10, 10)])
def test_faces_without_a_condition_fill_a_grid_without_labels(tmp_path: Path, num: int, rows: int, columns: int):
    (path,) = save(
        torch.zeros(num, 3, 64, 64, dtype=torch.uint8), Asked(("",), (), ({},)), tmp_path / "g.png", as_folder=False
    )
    pixels = np.asarray(Image.open(path))
    assert pixels.shape[0] == rows * (64 + 2 * MARGIN) + MARGIN
    assert (pixels == 0).all(axis=2).sum() == num * 64 * 64
    assert (pixels[MARGIN, :] == 0).all(axis=1).sum() == columns * 64


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_a_grid_in_any_format(faces: Snapshot, tmp_path: Path, suffix: str):
    images = drawn(faces, *TEXTS, num=2)
    out = tmp_path / f"new/grid{suffix}"
    assert save(images, asked(faces, *TEXTS), out, as_folder=False) == [out]
    with Image.open(out) as picture:
        assert picture.height > 3 * (64 + LINE)


@pytest.mark.parametrize("name", ["grid", "grid.bmp", "grid.safetensors", "g.png.txt"])
def test_a_name_without_a_picture_suffix_is_refused(faces: Snapshot, tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=r"end it with one of \.png, .* or with / for a folder"):
        check_suffix(tmp_path / name)
    with pytest.raises(ValueError, match="end it with one of"):
        save(drawn(faces, *TEXTS, num=1), asked(faces, *TEXTS), tmp_path / name, as_folder=False)
    assert not list(tmp_path.iterdir())


def test_captions_of_a_file(tmp_path: Path):
    path = tmp_path / "captions.txt"
    path.write_bytes("  a man \r\n\n\t\na woman, sourire é".encode())
    assert read_captions(path) == ["a man", "a woman, sourire é"]
    path.write_text(" \n\n")
    with pytest.raises(ValueError, match="holds no caption: give one a line"):
        read_captions(path)
    path.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ValueError, match="not a text file in UTF-8"):
        read_captions(path)
    with pytest.raises(FileNotFoundError):
        read_captions(tmp_path / "nowhere.txt")


def test_voices_of_a_folder(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such folder of voices"):
        find_voices(tmp_path / "nowhere")
    (tmp_path / "a folder.wav").mkdir()
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match=re.escape("holds no voice: put files of .wav, .flac, .ogg, .mp3 there")):
        find_voices(tmp_path)
    for name in ("b.WAV", "a.flac", "10.mp3", "c.ogg"):
        (tmp_path / name).write_bytes(b"")
    assert [Path(path).name for path in find_voices(tmp_path)] == ["10.mp3", "a.flac", "b.WAV", "c.ogg"]
    for name in ("b/2.wav", "b/10.wav", "a 3/x.wav", "a 20/x.wav", ".hidden/x.wav", "b/.x.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_voices(tmp_path)
    names = ["10.mp3", "a 3/x.wav", "a 20/x.wav", "a.flac", "b/2.wav", "b/10.wav", "b.WAV", "c.ogg"]
    assert list(found.values()) == names
    assert list(found) == [str(tmp_path / name) for name in names]
