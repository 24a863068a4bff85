"""CelebA's attributes, and the ten captions a face of Multi-Modal-CelebA-HQ."""

from pathlib import Path

import pytest

from t2f_dist.shard.sources.celeba import caption
from tests.shard.raw import draw, planned, reasons

# Of the 40, in the order of the file.
ATTRIBUTES = "5_o_Clock_Shadow Bald Brown_Hair Eyeglasses Male Pale_Skin Smiling Wearing_Hat Young"
ROWS = {
    "000001.jpg": "-1 -1  1 -1 -1 -1  1 -1  1",
    "000002.jpg": " 1 -1  1  1  1 -1  1  1 -1",
    "000003.jpg": "-1 -1 -1 -1 -1 -1 -1 -1 -1",
    "000004.jpg": "-1  1 -1 -1  1 -1 -1 -1 -1",
}
CAPTIONS = {
    "000001.jpg": "a young person with brown hair, smiling",
    "000002.jpg": "a man with a five o'clock shadow and brown hair, smiling, wearing eyeglasses and a hat",
    "000003.jpg": "a person",
    "000004.jpg": "a man, bald",
}

ALL = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair "
    "Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup "
    "High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose "
    "Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat "
    "Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)


@pytest.fixture
def celeba(tmp_path: Path) -> dict:
    for number, name in enumerate(ROWS):
        draw(tmp_path / "img_align_celeba" / name, number, (178, 218))
    rows = "".join(f"{name} {row}\n" for name, row in ROWS.items())
    (tmp_path / "list_attr_celeba.txt").write_text(f"{len(ROWS)}\n{ATTRIBUTES} \n{rows}")
    (tmp_path / "identity_CelebA.txt").write_text("000001.jpg 2880\n000002.jpg 2937\n000004.jpg 2880\n")
    return {
        "layout": "celeba",
        "faces": str(tmp_path / "img_align_celeba"),
        "captions": str(tmp_path / "list_attr_celeba.txt"),
    }


def test_attributes_as_a_caption(celeba: dict):
    _, entries = planned(**celeba)
    assert {path: entry.captions for path, entry in entries.items()} == {
        path: (text,) for path, text in CAPTIONS.items()
    }
    assert {entry.identity for entry in entries.values()} == {name.removesuffix(".jpg") for name in ROWS}


def test_the_person_is_the_identity(celeba: dict, tmp_path: Path):
    people = {"identities": str(tmp_path / "identity_CelebA.txt")}
    found, entries = planned(**celeba, celeba=people, identity="column")
    assert {path: entry.identity for path, entry in entries.items()} == {
        "000001.jpg": "2880",
        "000002.jpg": "2937",
        "000004.jpg": "2880",
    }
    assert reasons(found, "images") == {"000003.jpg": "no identity by 'column'"}


def test_ten_captions_a_face_and_people_through_the_mapping(celeba: dict, tmp_path: Path):
    for number in range(3):
        draw(tmp_path / "images" / f"{number}.jpg", number)
        (tmp_path / "text").mkdir(exist_ok=True)
        lines = [f"The person has brown hair and says {line}." for line in range(10)]
        (tmp_path / "text" / f"{number}.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "mapping.txt").write_text(
        "idx         orig_idx    orig_file   \n0           1           000002.jpg  \n"
        "1           3           000004.jpg  \n2           0           000001.jpg  \n"
    )
    people = {
        "identities": str(tmp_path / "identity_CelebA.txt"),
        "mapping": str(tmp_path / "mapping.txt"),
    }
    changes = {"faces": str(tmp_path / "images"), "captions": str(tmp_path / "text"), "identity": "column"}
    _, entries = planned(**celeba | changes, celeba=people)
    assert {path: entry.identity for path, entry in entries.items()} == {
        "0.jpg": "2937",
        "1.jpg": "2880",
        "2.jpg": "2880",
    }
    assert all(len(entry.captions) == 10 for entry in entries.values())


def test_every_attribute_of_celeba_is_said():
    names = ALL.split()
    assert len(names) == 40
    said = {name: caption([name]) for name in names}
    assert len(set(said.values())) == 40
    assert said["Oval_Face"] == "a person with an oval face"
    assert said["Big_Nose"] == "a person with a big nose"
    assert said["No_Beard"] == "a person with no beard"
    assert said["Wearing_Hat"] == "a person, wearing a hat"
    assert said["Wearing_Earrings"] == "a person, wearing earrings"
    assert said["Attractive"] == "a person, attractive"
    everything = caption(names)
    for name in set(names) - {"Male"}:
        words = said[name].replace("a young person", "young").removeprefix("a person").strip(" ,")
        assert words.removeprefix("with ").removeprefix("wearing ") in everything


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list_attr_celeba.txt", "Bald Young\n000001.jpg 1 1\n", "expected the number of rows in line 1"),
        ("list_attr_celeba.txt", "1\nBald Young\n000001.jpg 1\n", "line 3 is not an image and 2 values of 1 or -1"),
        ("list_attr_celeba.txt", "1\nBald\n000001.jpg 0\n", "line 3 is not an image and 1 values"),
        ("list_attr_celeba.txt", "9\nBald\n000001.jpg 1\n", "1 rows, where line 1 says 9; the file is not whole"),
        ("list_attr_celeba.txt", "", "expected the number of rows"),
        ("identity_CelebA.txt", "000001.jpg\n", "line 1 is not an image and a person"),
        ("identity_CelebA.txt", "000001.jpg 1\n000001.jpg 2\n", "000001.jpg has the identity 2, and elsewhere another"),
        ("mapping.txt", "a b\n", "no columns idx and orig_file, only a, b"),
        ("mapping.txt", "idx orig_idx orig_file\n0 1\n", "line 2 has 2 of 3 columns"),
        ("mapping.txt", "", "only nothing"),
    ],
)
def test_files_that_are_refused(celeba: dict, tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / "mapping.txt").write_text("idx orig_idx orig_file\n1 0 000001.jpg\n")
    (tmp_path / name).write_text(content)
    people = {"identities": str(tmp_path / "identity_CelebA.txt"), "mapping": str(tmp_path / "mapping.txt")}
    with pytest.raises(ValueError, match=message):
        planned(**celeba, celeba=people)


def test_files_that_are_not_there(celeba: dict, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such celeba.identities"):
        planned(**celeba, celeba={"identities": str(tmp_path / "nowhere")})
    with pytest.raises(ValueError, match="only with celeba.identities"):
        planned(**celeba, celeba={"mapping": str(tmp_path / "nowhere")})
