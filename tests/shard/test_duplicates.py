"""Images with the very bytes of another: counted, dropped or let be."""

import json
import shutil
from pathlib import Path

import pytest

from t2f_dist.shard.build import build, make
from t2f_dist.shard.manner import Manner
from tests.shard.raw import Corpus, draw
from tests.shard.test_build import files, stored


@pytest.fixture
def doubled(tmp_path: Path) -> Corpus:
    """Three copies of one image, two of another under other people's names; and one of the same size, not the same."""
    corpus = Corpus(tmp_path / "corpus", people=8)
    names = [row["image"] for row in corpus.rows]
    for source, target in ((0, 2), (0, 4), (7, 3)):
        shutil.copy(corpus.faces / names[source], corpus.faces / names[target])
    content = (corpus.faces / names[9]).read_bytes()
    (corpus.faces / names[11]).write_bytes(content[:-30] + bytes(30))
    return corpus


def rejected(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]


def test_they_are_counted(doubled: Corpus, tmp_path: Path):
    manifest = build(doubled.recipe(tmp_path / "out"), workers=1, progress=False)
    assert manifest.duplicates == 3
    assert len(stored(tmp_path / "out")) == 16 - 1  # the cut one
    ignored = build(doubled.recipe(tmp_path / "ignored", duplicates="ignore"), workers=1, progress=False)
    assert ignored.duplicates is None
    assert ignored.fingerprint == manifest.fingerprint


def test_they_are_dropped_for_the_first_by_name(doubled: Corpus, tmp_path: Path):
    out = tmp_path / "out"
    manifest = build(doubled.recipe(out, duplicates="drop"), workers=1, progress=False)
    assert manifest.duplicates == 3
    reasons = {row["image"]: row["reason"] for row in rejected(out) if row["kind"] == "images"}
    reasons.pop(doubled.rows[11]["image"])
    assert reasons == {
        "p01/p01_0.jpg": "the same bytes as p00/p00_0.jpg",
        "p02/p02_0.jpg": "the same bytes as p00/p00_0.jpg",
        "p03/p03_1.png": "the same bytes as p01/p01_1.png",
    }
    assert not reasons.keys() & stored(out).keys()
    assert manifest.totals["images"].model_dump() == {"found": 16, "stored": 12, "rejected": 4, "unmatched": 0}
    assert manifest.totals["captions"].rejected == 8


def test_parts_drop_the_same(doubled: Corpus, tmp_path: Path):
    for number in range(3):
        make(
            doubled.recipe(tmp_path / "parts", duplicates="drop", samples_per_shard=3),
            Manner(part=(number, 3), progress=False),
        )
    build(doubled.recipe(tmp_path / "whole", duplicates="drop", samples_per_shard=3), workers=1, progress=False)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_what_is_stored_is_kept_when_more_come(doubled: Corpus, tmp_path: Path):
    out = tmp_path / "out"
    recipe = doubled.recipe(out, duplicates="drop")
    build(recipe, workers=1, progress=False)
    for name, source in (("a/first.png", "p04/p04_0.jpg"), ("z/last.png", "p00/p00_0.jpg")):
        (doubled.faces / name).parent.mkdir()
        shutil.copy(doubled.faces / source, doubled.faces / name)
        doubled.rows.append({"image": name, "captions": ["one more"]})
    draw(doubled.faces / "new.png", 500)
    doubled.rows.append({"image": "new.png", "captions": ["a new one"]})
    doubled.write()
    manifest = make(recipe, Manner(extend=True, progress=False)).manifest
    assert manifest is not None
    assert manifest.duplicates == 5
    rows = [json.loads(line) for line in (out / manifest.rejected.file).read_text().splitlines()]
    reasons = {row["image"]: row["reason"] for row in rows if row["kind"] == "images"}
    assert reasons["a/first.png"] == "the same bytes as p04/p04_0.jpg"  # though it comes before it
    assert reasons["z/last.png"] == "the same bytes as p00/p00_0.jpg"
    assert "new.png" in stored(out)
    assert manifest.totals["images"].found == 19


def test_what_is_kept_is_what_can_be_stored(doubled: Corpus, tmp_path: Path):
    """The first by name has a broken voice, and each image needs one."""
    voices = dict(doubled.voices)
    (doubled.root / voices["p00/p00_0.jpg"]).write_text("no voice")
    out = tmp_path / "out"
    manifest = build(doubled.recipe(out, duplicates="drop", require="speech"), workers=1, progress=False)
    reasons = {row["image"]: row["reason"] for row in rejected(out) if row["kind"] == "images"}
    assert "p01/p01_0.jpg" in stored(out)
    assert reasons["p00/p00_0.jpg"] == reasons["p02/p02_0.jpg"] == "the same bytes as p01/p01_0.jpg"
    assert manifest.totals["images"].found == 16


def test_a_stored_image_that_has_changed_is_not_what_is_stored(doubled: Corpus, tmp_path: Path):
    out = tmp_path / "out"
    recipe = doubled.recipe(out, duplicates="drop")
    build(recipe, workers=1, progress=False)
    draw(doubled.faces / "p05/p05_1.png", 600, size=(50, 50))
    shutil.copy(doubled.faces / "p05/p05_1.png", doubled.faces / "new.png")
    doubled.rows.append({"image": "new.png", "captions": ["what is nowhere stored"]})
    doubled.write()
    make(recipe, Manner(extend=True, progress=False))
    assert "new.png" in stored(out)
