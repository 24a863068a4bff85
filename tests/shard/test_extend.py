"""Finished shards and a corpus that has grown: what is new is added, and nothing of the old is touched."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from t2f_dist.inspection.verify import verify
from t2f_dist.shard.build import build, make
from t2f_dist.shard.manifest import SPLITS, Manifest
from t2f_dist.shard.manner import Manner
from t2f_dist.text.vocabulary import Vocabulary
from tests.sentence_model import model_folder
from tests.shard.crashes import every_crash
from tests.shard.raw import Corpus, draw
from tests.shard.test_build import files, spoil, stored

EXTEND = Manner(extend=True, progress=False)


def grow(corpus: Corpus, people: int = 6) -> None:
    """New people, whose captions have new words; and one more photograph of an old one."""
    names = [f"q{person:02d}/{photo}.png" for person in range(people) for photo in range(2)] + ["p00/more.png"]
    for number, name in enumerate(names):
        draw(corpus.faces / name, 1000 + number)
        corpus.rows.append({"image": name, "captions": [f"Somebody new {'laughs' if number % 2 else 'frowns'}"]})
    corpus.write()


def whole(out: Path) -> None:
    """Every file that the manifest names is there as it was written, with every sample."""
    manifest = Manifest.load(out)
    for split in SPLITS:
        for shard in manifest.shards(split):
            for name, digest in ((shard.name, shard.sha256), (shard.index, shard.index_sha256)):
                assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
            assert hashlib.sha256((out / shard.small).read_bytes()).hexdigest() == shard.small_sha256
    manifest.read_vocabulary(out)
    rejected = (out / manifest.rejected.file).read_bytes()
    assert hashlib.sha256(rejected).hexdigest() == manifest.rejected.sha256


def vocabulary(out: Path) -> tuple[str, ...]:
    return Vocabulary.from_json(Manifest.load(out).read_vocabulary(out)).words


def test_what_is_new_becomes_new_shards(corpus: Corpus, tmp_path: Path):
    out = tmp_path / "out"
    before = build(corpus.recipe(out), workers=1, progress=False)
    old, old_samples, old_words = files(out), stored(out), vocabulary(out)
    grow(corpus)
    report = make(corpus.recipe(out), EXTEND)
    after = report.manifest
    assert after is not None
    assert report.written
    for split in SPLITS:
        assert after.shards(split)[: len(before.shards(split))] == before.shards(split)
    assert all(
        files(out)[name] == content for name, content in old.items() if name.endswith((".tar", ".npy", ".small"))
    )
    samples = stored(out)
    assert samples.keys() == {row["image"] for row in corpus.rows}
    assert {name: samples[name] for name in old_samples} == old_samples
    fresh = build(corpus.recipe(tmp_path / "fresh"), workers=1, progress=False)
    assert {name: sample["split"] for name, sample in samples.items()} == {
        name: sample["split"] for name, sample in stored(tmp_path / "fresh").items()
    }  # an identity stays on its side
    words = vocabulary(out)
    assert words[: len(old_words)] == old_words
    assert set(words) == set(vocabulary(tmp_path / "fresh"))
    assert {"laughs", "frowns"} <= set(words) - set(old_words)
    assert after.totals == fresh.totals
    assert after.recipe == before.recipe
    assert after.extensions == (before.recipe,)
    assert verify(out, decode=True, progress=False) == []
    assert not (out / "vocabulary.json").exists()
    assert (out / "vocabulary-1.json").exists()

    assert "nothing to do" in make(corpus.recipe(out), Manner(progress=False)).note
    again = files(out)
    assert "nothing to add" in make(corpus.recipe(out), EXTEND).note
    assert files(out) == again
    grow(corpus, people=9)
    assert make(corpus.recipe(out), EXTEND).written
    assert len(Manifest.load(out).extensions) == 2
    assert stored(out).keys() == {row["image"] for row in corpus.rows}
    assert verify(out, decode=True, progress=False) == []


def test_a_folder_with_nothing_but_the_new(tmp_path: Path):
    old, new = Corpus(tmp_path / "old", people=8), Corpus(tmp_path / "new", people=0)
    out = tmp_path / "out"
    before = build(old.recipe(out), workers=1, progress=False)
    grow(new, people=1)
    speech = str(new.root / "speech.csv")
    after = make(new.recipe(out, speech=speech), EXTEND).manifest
    assert after is not None
    assert after.totals["images"].found == before.totals["images"].found + 3
    assert stored(out).keys() == {row["image"] for row in old.rows + new.rows}
    assert after.extensions[0]["faces"] == str(new.faces)


def test_totals_count_nothing_twice(corpus: Corpus, tmp_path: Path):
    """With one of everything that goes wrong, before and after; and what was refused is repaired."""
    gone, _ = spoil(corpus)
    out = tmp_path / "out"
    before = build(corpus.recipe(out), workers=1, progress=False)
    assert "nothing to add" in make(corpus.recipe(out), EXTEND).note
    repaired = sorted(gone)[0]
    draw(corpus.faces / repaired, 77)
    grow(corpus)
    (corpus.faces / "q00/0.png").write_text("no image")
    after = make(corpus.recipe(out), EXTEND).manifest
    assert after is not None
    fresh = build(corpus.recipe(tmp_path / "fresh"), workers=1, progress=False)
    assert after.totals == fresh.totals
    assert after.totals["images"].rejected == before.totals["images"].rejected  # one less, one more
    rows, fresh_rows = (
        sorted((folder / manifest.rejected.file).read_text().splitlines())
        for folder, manifest in ((out, after), (tmp_path / "fresh", fresh))
    )
    assert rows == fresh_rows
    assert repaired in stored(out)
    assert verify(out, decode=True, progress=False) == []


def test_what_is_new_and_refused_is_recorded(tmp_path: Path):
    """Else a build would ask for --extend, and --extend find nothing to add."""
    corpus = Corpus(tmp_path / "corpus", people=6)
    out = tmp_path / "out"
    before = build(corpus.recipe(out), workers=1, progress=False)
    old = files(out)
    draw(corpus.faces / "unnamed.png", 5)
    corpus.rows.append({"image": "nobody.png", "captions": ["who"]})
    corpus.write()
    with pytest.raises(FileExistsError, match="2 added .*--extend adds"):
        build(corpus.recipe(out), workers=1, progress=False)
    report = make(corpus.recipe(out), EXTEND)
    assert report.note == "nothing to store: all that is new is refused, see rejected-1.jsonl"
    assert report.manifest is not None
    assert report.manifest.splits == before.splits
    assert report.manifest.totals["images"].unmatched == before.totals["images"].unmatched + 1
    assert "nobody.png" in (out / "rejected-1.jsonl").read_text()
    assert {name: files(out)[name] for name in old if name.startswith("train")}.items() <= old.items()
    assert "nothing to do" in make(corpus.recipe(out), Manner(progress=False)).note
    assert "nothing to add" in make(corpus.recipe(out), EXTEND).note
    assert verify(out, decode=True, progress=False) == []


def test_min_count_counts_the_old_captions_too(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=8)
    for number, row in enumerate(corpus.rows):
        row["captions"] = [f"always {'seldom' if number == 0 else ''} {'often' * (number % 2)}"]
    corpus.write()
    fields = {"text": {"min_count": 2}, "split": {"validation": 0, "test": 0}, "speech": None}
    out = tmp_path / "out"
    build(corpus.recipe(out, **fields), workers=1, progress=False)
    assert vocabulary(out) == ("always", "often")
    draw(corpus.faces / "new.png", 5)
    corpus.rows.append({"image": "new.png", "captions": ["seldom once"]})
    corpus.write()
    make(corpus.recipe(out, **fields), EXTEND)
    assert vocabulary(out) == ("always", "often", "seldom")


def test_max_words_is_of_all_words(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=8)
    out = tmp_path / "out"
    fields = {"split": {"validation": 0, "test": 0}}
    build(corpus.recipe(out, **fields), workers=1, progress=False)
    count = len(vocabulary(out))
    for room in (0, 1):
        shutil.rmtree(out)
        limited = fields | {"text": {"max_words": count + room}}
        build(corpus.recipe(out, **limited), workers=1, progress=False)
        if not room:
            grow(corpus)
            make(corpus.recipe(out, **limited), EXTEND)
            assert len(vocabulary(out)) == count
            corpus = Corpus(tmp_path / "second", people=8)
        else:
            grow(corpus)
            make(corpus.recipe(out, **limited), EXTEND)
            assert len(vocabulary(out)) == count + 1


def test_keys_stay_unique(tmp_path: Path):
    """`a-b.png` is stored as a-b; `a/b.png`, which comes later, would have that key too."""
    corpus = Corpus(tmp_path / "corpus", people=4)
    draw(corpus.faces / "a-b.png", 1)
    corpus.rows.append({"image": "a-b.png", "captions": ["one"]})
    corpus.write()
    out = tmp_path / "out"
    fields = {"split": {"validation": 0, "test": 0}}
    build(corpus.recipe(out, **fields), workers=1, progress=False)
    (corpus.faces / "a-b.png").unlink()
    draw(corpus.faces / "a/b.png", 2)
    corpus.rows[-1] = {"image": "a/b.png", "captions": ["two"]}
    corpus.write()
    make(corpus.recipe(out, **fields), EXTEND)
    assert {"a-b.png", "a/b.png"} <= stored(out).keys()
    keys = [json.loads(line)[2] for line in (out / "corpus-1.jsonl").read_text().splitlines()]
    assert len(set(keys)) == len(keys) == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": {"resolution": 32}}, "image.resolution 16 -> 32"),
        ({"seed": 1}, "seed 0 -> 1"),
        ({"speech": None}, "speech .* -> null"),
        ({"split": {"validation": 0.3, "test": 0.2}}, "split.validation 0.2 -> 0.3"),
        ({"text": {"min_count": 2}}, "text.min_count 1 -> 2"),
    ],
)
def test_samples_of_another_shape_are_refused(corpus: Corpus, tmp_path: Path, changes: dict, message: str):
    out = tmp_path / "out"
    build(corpus.recipe(out), workers=1, progress=False)
    before = files(out)
    grow(corpus)
    with pytest.raises(ValueError, match=message) as error:
        make(corpus.recipe(out, **changes), EXTEND)
    assert "\n" not in str(error.value)
    assert files(out) == before


@pytest.mark.slow
def test_embeddings_of_the_same_model_only(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=8)
    out = tmp_path / "out"
    build(corpus.recipe(out, embed=str(model_folder())), workers=1, progress=False)
    grow(corpus, people=2)
    with pytest.raises(ValueError, match="embed .* -> null"):
        make(corpus.recipe(out), EXTEND)
    after = make(corpus.recipe(out, embed=str(model_folder())), EXTEND).manifest
    assert after is not None
    assert verify(out, decode=True, progress=False) == []


def test_there_must_be_something_to_extend(corpus: Corpus, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="holds no finished shards"):
        make(corpus.recipe(tmp_path / "out"), EXTEND)
    make(corpus.recipe(tmp_path / "out"), Manner(part=(0, 2), progress=False))
    with pytest.raises(FileNotFoundError, match="an unfinished build: finish it first"):
        make(corpus.recipe(tmp_path / "out"), EXTEND)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_every_step_the_old_shards_stay_readable(tmp_path: Path, step: int):
    corpus = Corpus(tmp_path / "corpus", people=6)
    recipe = corpus.recipe(tmp_path / "out")
    build(recipe, workers=1, progress=False)
    old = stored(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "old")
    grow(corpus, people=3)
    shutil.copytree(tmp_path / "out", tmp_path / "whole")
    make(corpus.recipe(tmp_path / "whole"), EXTEND)
    steps = 0
    for steps in every_crash(lambda: make(recipe, EXTEND), step=step):
        whole(tmp_path / "out")
        samples = stored(tmp_path / "out")
        assert {name: samples[name] for name in old} == old
        make(recipe, EXTEND)
        assert files(tmp_path / "out") == files(tmp_path / "whole"), steps
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(tmp_path / "old", tmp_path / "out")
    assert steps > 30


def test_an_unfinished_extension_of_another_corpus_is_refused(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=8)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=2)
    build(recipe, workers=1, progress=False)
    grow(corpus)
    assert make(recipe, Manner(extend=True, part=(0, 2), progress=False)).open
    with pytest.raises(FileExistsError, match="an --extend is unfinished: the same command finishes it"):
        build(recipe, workers=1, progress=False)
    grow(corpus, people=7)
    with pytest.raises(
        FileExistsError, match=r"an unfinished --extend of another corpus: \d+ added .*remove .*\.build"
    ):
        make(recipe, EXTEND)
    shutil.rmtree(tmp_path / "out/.build")
    make(recipe, EXTEND)
    assert stored(tmp_path / "out").keys() == {row["image"] for row in corpus.rows}
    assert verify(tmp_path / "out", decode=True, progress=False) == []
