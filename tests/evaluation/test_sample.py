from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t2f_dist.evaluation.sample import SUFFIXES, Captions, check_suffix, read_captions, sample, save
from t2f_dist.text.vocabulary import Vocabulary
from tests.models.untrained import WORDS, untrained

TEXTS = ["A woman with red hair.", "a smiling man", "a man with green hair"]


@pytest.fixture(scope="module")
def faces():
    return untrained()


def test_every_caption_gets_the_same_noise_column_by_column(faces):
    images = sample(faces, Captions(faces, TEXTS), num=4, seed=7)
    assert images.shape == (12, 3, 8, 8)
    alone = sample(faces, Captions(faces, TEXTS[1:2]), num=4, seed=7)
    assert torch.equal(alone, images[4:8])
    assert torch.equal(sample(faces, Captions(faces, TEXTS), num=2, seed=7)[2:4], images[4:6]), "more faces, same first"
    twice = sample(faces, Captions(faces, [TEXTS[0], TEXTS[0].upper()]), num=2, seed=7)
    assert torch.equal(twice[:2], twice[2:]), "case and columns alone do not change a face"
    assert not torch.equal(images[:4], images[4:8])


def test_words_that_the_vocabulary_lacks_are_named_once_in_order(faces):
    captions = Captions(faces, [*TEXTS, "an old, OLD man of the old town"])
    assert captions.unknown == {
        "a man with green hair": ["green"],
        "an old, OLD man of the old town": ["an", "old", "of", "the", "town"],
    }
    assert captions.tokens[2] == [2, WORDS.index("man") + 2, WORDS.index("with") + 2, 1, WORDS.index("hair") + 2]


@pytest.mark.parametrize("text", ["zebra crossing", "", "?!", "42"])
def test_a_caption_without_a_known_word_is_refused(faces, text):
    with pytest.raises(ValueError, match=r"has no word of the vocabulary, which holds 8 words such as a, woman"):
        Captions(faces, ["a man", text])


def test_known_words_past_the_limit_are_not_read():
    short = untrained("data.max_words=2")
    assert Captions(short, ["a man with red hair"]).tokens == [[2, 4]]
    with pytest.raises(ValueError, match="has no word of the vocabulary"):
        Captions(short, ["never seen man"])


def test_a_vocabulary_of_other_weights_is_refused(faces):
    for words in (WORDS[:-1], (*WORDS, "more")):
        with pytest.raises(ValueError, match=r"vocabulary has .* its encoder 10"):
            Captions(replace(faces, vocabulary=Vocabulary(words).to_json()), TEXTS)
    with pytest.raises(ValueError, match="not a vocabulary"):
        Captions(replace(faces, vocabulary="{}"), TEXTS)


def test_single_pictures_are_the_faces_to_the_bit_and_named_by_caption(faces, tmp_path: Path):
    captions = Captions(faces, [*TEXTS, "a man / ../../red: " + "hair " * 40])
    images = sample(faces, captions, num=3, seed=0)
    paths = save(images, captions, tmp_path / "new/faces", as_folder=True)
    assert len(set(paths)) == 12
    assert sorted(paths) == paths == sorted((tmp_path / "new/faces").iterdir())
    assert paths[4].name == "001-a-smiling-man-001.png"
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as picture:
            assert (np.asarray(picture) == image.permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_a_grid_in_any_format(faces, tmp_path: Path, suffix: str):
    captions = Captions(faces, TEXTS)
    images = sample(faces, captions, num=2, seed=0)
    assert save(images, captions, tmp_path / f"new/grid{suffix}", as_folder=False) == [tmp_path / f"new/grid{suffix}"]
    with Image.open(tmp_path / f"new/grid{suffix}") as picture:
        assert picture.height > 3 * 64


@pytest.mark.parametrize("name", ["grid", "grid.bmp", "grid.safetensors", "g.png.txt"])
def test_a_name_without_a_picture_suffix_is_refused(faces, tmp_path: Path, name: str):
    with pytest.raises(ValueError, match=r"end it with one of \.png, .* or with / for a folder"):
        check_suffix(tmp_path / name)
    captions = Captions(faces, TEXTS)
    with pytest.raises(ValueError, match="end it with one of"):
        save(sample(faces, captions, 1, 0), captions, tmp_path / name, as_folder=False)
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
