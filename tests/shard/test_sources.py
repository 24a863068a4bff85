"""The raw layouts, and the finding of the image that a source names."""

import json
from pathlib import Path

import pytest

from t2f_dist.shard.sources import Ambiguous, Mention, Source, face2text, folder, table
from t2f_dist.shard.sources.faces import Faces


def faces(root: Path, *paths: str) -> Faces:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return Faces(root)


def test_scan_finds_images_only(tmp_path: Path):
    (tmp_path / "loop").symlink_to(tmp_path)
    found = faces(tmp_path, "b/1.JPG", "a.png", "c.txt", ".hidden.png", ".git/d.png", "b/c/x.y.webp")
    assert found.paths == ["a.png", "b/1.JPG", "b/c/x.y.webp"]


def test_no_faces(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Faces(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no image below"):
        Faces(tmp_path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Bob/Bob_1.jpg", "Bob/Bob_1.jpg"),
        ("./Bob//Bob_1.jpg ", "Bob/Bob_1.jpg"),
        ("Bob\\Bob_1.jpg", "Bob/Bob_1.jpg"),
        ("Bob/Bob_1.bmp", "Bob/Bob_1.jpg"),
        ("lfw/Bob/Bob_1.bmp", "Bob/Bob_1.jpg"),
        ("Bob_1", "Bob/Bob_1.jpg"),
        ("faces/Bob/Bob_1.jpg", "Bob/Bob_1.jpg"),
        ("any/where/root.jpg", "root.png"),
        ("Ann/Bob_1.jpg", None),
        ("Bob_2.jpg", None),
        ("1.jpg", None),
        ("", None),
    ],
)
def test_names_of_images(tmp_path: Path, name: str, found: str | None):
    root = faces(tmp_path / "faces", "Bob/Bob_1.jpg", "Ann/Ann_1.jpg", "root.png", "v1.0.jpg")
    assert root.find(name, tmp_path) == found


def test_ambiguous_names(tmp_path: Path):
    root = faces(tmp_path / "faces", "a/1.jpg", "b/1.jpg", "2.jpg", "2.png", "c/3.jpg", "3.jpg")
    assert root.find("a/1", tmp_path) == "a/1.jpg"
    assert root.find("2.png", tmp_path) == "2.png"
    assert root.find("3", tmp_path) == "3.jpg"
    for name in ("1.jpg", "2"):
        with pytest.raises(Ambiguous, match="fits 2 images"):
            root.find(name, tmp_path)


def test_face2text(tmp_path: Path):
    path = tmp_path / "clean.json"
    descriptions = [{"desc_id": 5, "text": "A man"}, {"desc_id": 6, "text": None}]
    path.write_text(json.dumps([{"img_id": 1, "image": "a/a.bmp", "descriptions": descriptions}]))
    source = face2text.read(path)
    assert source.folder == str(tmp_path)
    assert source.mentions == [
        Mention("a/a.bmp", "A man", None, "clean.json: desc_id 5"),
        Mention("a/a.bmp", None, None, "clean.json: desc_id 6"),
    ]


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"image": "a"}]', '[{"descriptions": []}]', "[", "\xff"])
def test_not_face2text(tmp_path: Path, content: str):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json"):
        face2text.read(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", '\ufeffimage,caption,identity\na.png,"tall, dark",Ann\na.png,old,Ann\n'),
        ("a.tsv", "image\tcaption\tidentity\na.png\ttall, dark\tAnn\na.png\told\tAnn\n"),
        ("a.jsonl", '{"image": "a.png", "captions": ["tall, dark", "old"], "identity": "Ann"}\n\n'),
    ],
)
def test_tables_say_the_same(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    mentions = table.read(tmp_path / name, "image", None, table.CAPTION_COLUMNS, "identity").mentions
    assert [(m.image, m.value, m.identity) for m in mentions] == [
        ("a.png", "tall, dark", "Ann"),
        ("a.png", "old", "Ann"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "picture,caption\na.png,old\n", "no column image, only picture, caption"),
        ("a.csv", "image,words\na.png,old\n", "no column caption or captions"),
        ("a.csv", "image,caption\na.png,tall, dark\n", "line 2 has more fields"),
        ("a.csv", 'image,caption\na.png,"tall\n', "unexpected end"),
        ("a.jsonl", '{"image": "a.png"\n', "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("a.csv", "image,caption\na.png,\xff\n", "UTF-8"),
    ],
)
def test_tables_that_are_not_what_they_should_be(tmp_path: Path, name: str, content: str, reason: str):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=reason):
        table.read(tmp_path / name, "image", None, table.CAPTION_COLUMNS, "identity")


@pytest.mark.parametrize("name", ["a::b.wav", "x::y/1.wav", "s3:/x.wav", "line\nbreak.wav", "../beside/1.wav"])
def test_a_table_here_names_any_file_here(tmp_path: Path, name: str):
    """No rule for URLs is one for paths below a local folder."""
    path = tmp_path / "tables" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"voice")
    found = Source(str(tmp_path / "tables"), []).file(name)
    assert found is not None and found.size == 5
    assert found.path is not None and found.path.samefile(path)
    assert found.read() == b"voice"


@pytest.mark.parametrize("name", ["", "none.wav", "a\0b", "x" * 300, "loop/x", "tables", "."])
def test_what_a_table_here_names_that_is_no_file(tmp_path: Path, name: str):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "tables").mkdir()
    assert Source(str(tmp_path), []).file(name) is None


def test_folders(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/v1.0.txt").write_text("A man\r\n\nAn old man\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "a/v1.0.wav").write_bytes(b"")
    mentions = folder.read_captions(tmp_path).mentions
    assert [(mention.image, str(mention.value).strip()) for mention in mentions] == [
        ("a/v1.0", "A man"),
        ("a/v1.0", "An old man"),
        ("empty", ""),
    ]
    assert [(mention.image, mention.value) for mention in folder.read_voices(tmp_path).mentions] == [
        ("a/v1.0", "a/v1.0.wav")
    ]


def test_folders_without_anything(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no \.txt below"):
        folder.read_captions(tmp_path)
    with pytest.raises(ValueError, match="no audio file below"):
        folder.read_voices(tmp_path)
