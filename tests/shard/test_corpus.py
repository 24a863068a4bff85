"""The plan: matching, identities, splits, order, keys."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.config.recipe import SplitRecipe
from t2f_dist.shard.corpus import plan, split_of
from tests.shard.raw import Corpus, draw, speak


def sides(found) -> dict[str, str]:
    return {entry.path: split for split, entries in found.splits.items() for entry in entries}


def entries(found) -> dict:
    return {entry.path: entry for side in found.splits.values() for entry in side}


def test_no_identity_on_two_sides_and_every_side_used(corpus: Corpus, tmp_path: Path):
    found = plan(corpus.recipe(tmp_path / "out"))
    people = {split: {entry.identity for entry in side} for split, side in found.splits.items()}
    assert all(people.values())
    assert sum(map(len, people.values())) == len(set().union(*people.values()))


def test_a_grown_corpus_keeps_the_split_of_what_it_had(tmp_path: Path):
    small = Corpus(tmp_path / "small", people=12)
    large = Corpus(tmp_path / "large", people=20)
    before, after = (sides(plan(corpus.recipe(tmp_path / "out"))) for corpus in (small, large))
    assert set(before) < set(after)
    assert all(after[path] == split for path, split in before.items())


@given(st.text(), st.floats(0, 0.4), st.floats(0, 0.4))
def test_larger_fractions_only_take_from_train(identity: str, validation: float, test: float):
    split = split_of(identity, SplitRecipe(validation=validation, test=test))
    larger = split_of(identity, SplitRecipe(validation=validation + 0.1, test=test))
    assert larger == split or (split, larger) == ("train", "validation")


def test_fractions_are_met():
    fractions = SplitRecipe(validation=0.1, test=0.2)
    split = [split_of(f"person {number}", fractions) for number in range(20_000)]
    assert split.count("validation") / 20_000 == pytest.approx(0.1, abs=0.01)
    assert split.count("test") / 20_000 == pytest.approx(0.2, abs=0.01)


def test_seed_changes_the_order_and_not_the_split(corpus: Corpus, tmp_path: Path):
    one, same, other = (plan(corpus.recipe(tmp_path / "out", seed=seed)) for seed in (0, 0, 1))
    assert one.splits == same.splits
    assert one.splits != other.splits
    assert sides(one) == sides(other)
    assert [entry.path for entry in one.splits["train"]] != sorted(entry.path for entry in one.splits["train"])


@pytest.mark.parametrize(
    ("rule", "identities"),
    [
        ("auto", {"Ann", "b"}),
        ("folder", {"a", "b"}),
        ("stem", {"x_1", "y_2"}),
        ("column", {"Ann", None}),
        (r"_(\d)", {"1", "2"}),
        (r"[xy]_", {"x_", "y_"}),
    ],
)
def test_identity_rules(tmp_path: Path, rule: str, identities: set):
    corpus = Corpus(tmp_path / "corpus", people=0)
    draw(corpus.faces / "a/x_1.png", 1)
    draw(corpus.faces / "b/y_2.png", 2)
    corpus.rows = [
        {"image": "a/x_1.png", "caption": "a", "identity": "Ann"},
        {"image": "b/y_2.png", "caption": "b", "identity": None},
    ]
    corpus.write()
    nobody_held_back = {"validation": 0, "test": 0}
    found = plan(corpus.recipe(tmp_path / "out", identity=rule, speech=None, split=nobody_held_back))
    assert {entry.identity for entry in entries(found).values()} == identities - {None}
    rejected = [refusal.image for refusal in found.refusals if refusal.kind == "images"]
    assert rejected == (["b/y_2.png"] if None in identities else [])


def test_two_identities_for_one_image(corpus: Corpus, tmp_path: Path):
    corpus.rows += [corpus.rows[0] | {"identity": name} for name in ("Ann", "Bob")]
    corpus.write()
    with pytest.raises(ValueError, match=r"p00/p00_0\.jpg has the identity 'Bob', and elsewhere 'Ann'"):
        plan(corpus.recipe(tmp_path / "out"))


def test_keys_are_unique_and_plain(tmp_path: Path):
    names = ["a/b.png", "a-b.png", "a/b.jpg", "v1.0.png", "é é.png", "x" * 120 + ".png", "x" * 119 + "y.png", ".v.png"]
    for number, name in enumerate(names):
        draw(tmp_path / "corpus/faces" / name, number)
    corpus = Corpus(tmp_path / "corpus", people=0)
    found = plan(corpus.recipe(tmp_path / "out", captions=None, speech=None, split={"validation": 0, "test": 0}))
    keys = {path: entry.key for path, entry in entries(found).items()}
    assert keys["v1.0.png"] == "v1-0"
    assert len(set(keys.values())) == len(keys) == len(names) - 1  # ".v.png" is hidden
    assert all(
        key.replace("-", "").replace("_", "").isalnum() and key.isascii() and len(key) <= 90 for key in keys.values()
    )


def test_captions_and_voices_in_folders(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=3)
    for row in corpus.rows:
        path = (corpus.root / "txt" / row["image"]).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(row["captions"]))
    speak(corpus.root / "wav/p01_1.wav", 1)
    changes = {"captions": str(corpus.root / "txt"), "speech": str(corpus.root / "wav")}
    nobody_held_back = {"validation": 0, "test": 0}
    found = plan(corpus.recipe(tmp_path / "out", **changes, split=nobody_held_back))
    from_table = plan(corpus.recipe(tmp_path / "out", speech=None, split=nobody_held_back))
    assert {path: entry.captions for path, entry in entries(found).items()} == {
        path: entry.captions for path, entry in entries(from_table).items()
    }
    assert [path for path, entry in entries(found).items() if entry.voice] == ["p01/p01_1.png"]


@pytest.mark.parametrize(("require", "stored"), [("any", 40), ("captions", 38), ("speech", 30), ("both", 28)])
def test_require(corpus: Corpus, tmp_path: Path, require: str, stored: int):
    for row in corpus.rows[:2]:  # a person with voices
        row["captions"] = [" "]
    corpus.write()
    found = plan(corpus.recipe(tmp_path / "out", require=require))
    assert len(entries(found)) == stored


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"faces": "nowhere"}, "no such folder of faces: nowhere"),
        ({"captions": "nowhere.json"}, "no such captions: nowhere.json"),
        ({"speech": "nowhere.csv"}, "no such speech: nowhere.csv"),
        ({"split": {"validation": 0.5, "test": 0.4999}}, "none into train"),
        ({"identity": "nobody(.)"}, "no usable sample: 40 images.*no identity by"),
    ],
)
def test_one_line_says_what_is_wrong(corpus: Corpus, tmp_path: Path, changes: dict, message: str):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        plan(corpus.recipe(tmp_path / "out", **changes))
    assert "\n" not in str(error.value)


def test_captions_of_another_corpus(corpus: Corpus, tmp_path: Path):
    corpus.rows = [{"image": "who.png", "caption": "a man"}]
    corpus.write()
    with pytest.raises(ValueError, match=r"names no image .* such as 'who\.png'"):
        plan(corpus.recipe(tmp_path / "out", speech=None))
