"""Evaluation on drawn portraits: what stands in the tables, and what is refused."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.evaluation.portraits import evaluate
from t2f_dist.models.snapshot import Corpus, Snapshot
from t2f_dist.portraits.attributes import ATTRIBUTES
from t2f_dist.portraits.corpus import write_corpus
from t2f_dist.shard.build import build as build_shards
from t2f_dist.shard.manifest import Manifest
from t2f_dist.text.vocabulary import Vocabulary
from tests.models.untrained import SAMPLE_RATE_HZ, untrained
from tests.sentence_model import model_folder
from tests.shard.raw import Corpus as Raw
from tests.shard.raw import speak

SIXTEEN = (
    "stages=[{resolution: 16, stable_images: 8, batch_size: 8}]",
    "generator.channels=[12, 8, 8]",
    "discriminator.channels=[12, 8, 8]",
    "train.precision=fp32",
)
SIXTEEN_DCGAN = (SIXTEEN[0], "generator.channels=[12, 8]", "discriminator.channels=[12, 8]", "train.precision=fp32")


def faces_of(shards: Path, *overrides: str, recipe: str = "house") -> Snapshot:
    """Untrained, 16 pixels, with what the shards say."""
    manifest = Manifest.load(shards)
    assert manifest.sample_rate_hz in (SAMPLE_RATE_HZ, None)
    corpus = Corpus(
        vocabulary=manifest.read_vocabulary(shards) if manifest.vocabulary else "",
        embedding=manifest.embedding.model_dump(mode="json") if manifest.embedding else None,
        identities=(1, 2, 3),
    )
    sizes = SIXTEEN if recipe in ("house", "both") else SIXTEEN_DCGAN
    return untrained(*sizes, *overrides, recipe=recipe, corpus=corpus)


@pytest.fixture(scope="module")
def faces(portrait_shards: Path) -> Snapshot:
    return faces_of(portrait_shards)


@pytest.fixture(scope="module")
def both(portrait_shards: Path) -> Snapshot:
    return faces_of(portrait_shards, recipe="both")


@pytest.fixture(scope="module")
def voiced_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portraits with voices alone, and no captions."""
    folder = tmp_path_factory.mktemp("voiced")
    write_corpus(folder / "corpus", num=80, resolution=32, seed=3, workers=1, captions_each=1, progress=False)
    recipe = ShardRecipe(
        faces=str(folder / "corpus/faces"), speech=str(folder / "corpus/speech.csv"), out=str(folder / "shards"),
        image={"resolution": 32}, identity="stem", split={"test": 0.3},
    )  # fmt: skip
    build_shards(recipe, workers=1, progress=False)
    return folder / "shards"


def test_real_portraits_agree_and_an_untrained_drawer_is_at_chance(faces: Snapshot, portrait_shards: Path):
    (table,) = evaluate(faces, portrait_shards, "train", num=60, seed=0).values()
    assert table.num_samples == 60
    assert list(table.rows) == list(ATTRIBUTES)
    assert table.mean.real > 0.97, "captions and portraits are paired, and the reader reads them"
    assert 0.2 < table.mean.chance < 0.5
    assert table.mean.generated < table.mean.chance + 0.15
    assert table.mean.unnamed < table.mean.unnamed_chance + 0.2
    assert evaluate(faces, portrait_shards, "train", num=60, seed=0)["caption"] == table
    assert evaluate(faces, portrait_shards, "train", num=60, seed=1)["caption"] != table


def test_a_snapshot_of_both_is_asked_in_three_ways_about_the_same_samples(both: Snapshot, portrait_shards: Path):
    tables = evaluate(both, portrait_shards, "train", num=40, seed=0)
    assert list(tables) == ["caption", "speech", "both"]
    counts = {tuple((row.num_named, row.num_unnamed) for row in table.rows.values()) for table in tables.values()}
    assert len(counts) == 1
    assert len({(table.mean.real, table.mean.chance, table.mean.unnamed_chance) for table in tables.values()}) == 1
    assert len({str(table.rows) for table in tables.values()}) == 3, "a face follows what is asked with"
    for way, table in tables.items():
        assert evaluate(both, portrait_shards, "train", num=40, seed=0, by=way) == {way: table}


def test_each_way_gives_its_modalities_and_no_others(both: Snapshot, portrait_shards: Path):
    """Only what is given can change a table: the encoder of what is missing may be another."""
    before = evaluate(both, portrait_shards, "train", num=30, seed=0)
    for modality, unmoved in (("caption", "speech"), ("speech", "caption")):
        other = faces_of(portrait_shards, recipe="both")
        for parameter in other.generator.encoder.encoders[modality].parameters():
            parameter.add_(0.5)
        after = evaluate(other, portrait_shards, "train", num=30, seed=0)
        assert {way for way in before if after[way] == before[way]} == {unmoved}


def test_a_split_that_holds_fewer_is_taken_whole(faces: Snapshot, portrait_shards: Path):
    num = Manifest.load(portrait_shards).num_samples("test")
    assert 0 < num < 60
    assert evaluate(faces, portrait_shards, "test", num=10**6, seed=0)["caption"].num_samples == num


def test_shards_without_captions_count_everything_as_unnamed(voiced_shards: Path):
    snapshot = faces_of(voiced_shards, recipe="wav2pix")
    (table,) = evaluate(snapshot, voiced_shards, "test", num=1000, seed=0).values()
    num = Manifest.load(voiced_shards).num_samples("test")
    assert table.num_samples == num > 10
    assert all(row.num_named == 0 and math.isnan(row.real) for row in table.rows.values())
    assert table.rows["sex"].num_unnamed == num
    assert 0.3 < table.rows["sex"].unnamed_chance < 0.7
    with pytest.raises(ValueError, match="--by caption: this snapshot was not trained with a caption"):
        evaluate(snapshot, voiced_shards, "test", num=10, seed=0, by="caption")
    with pytest.raises(ValueError, match="holds no captions"):
        evaluate(faces_of_both_without(voiced_shards), voiced_shards, "test", num=10, seed=0, by="caption")


def faces_of_both_without(shards: Path) -> Snapshot:
    """Of captions and voices, where the shards have no captions."""
    corpus = Corpus(Vocabulary(["a"]).to_json())
    assert Manifest.load(shards).vocabulary is None
    return untrained(*SIXTEEN, recipe="both", corpus=corpus)


def test_stored_embeddings_need_no_model(tmp_path: Path):
    write_corpus(tmp_path / "corpus", num=16, resolution=32, seed=5, captions_each=2, voices=False, progress=False)
    recipe = ShardRecipe(
        faces=str(tmp_path / "corpus/faces"), captions=str(tmp_path / "corpus/captions.jsonl"),
        out=str(tmp_path / "shards"), embed=str(model_folder()), image={"resolution": 32},
    )  # fmt: skip
    build_shards(recipe, workers=1, progress=False)
    snapshot = faces_of(tmp_path / "shards", "condition={caption: {kind: stored}}")
    (table,) = evaluate(snapshot, tmp_path / "shards", "train", num=16, seed=0).values()
    assert table.mean.real > 0.9
    assert table.num_samples == Manifest.load(tmp_path / "shards").num_samples("train")


@pytest.mark.parametrize(
    ("overrides", "recipe", "by", "message"),
    [
        ((), "house", "both", "--by both: this snapshot was not trained with a voice"),
        (("condition.speech.dropout=0",), "both", "caption", r"with a voice for every face \(condition.speech.dropout"),
        ((), "unconditional", "all", "draws without any condition: there is nothing that its faces could agree with"),
        ((), "identity", "all", "trained with an identity for every face, .* only captions and voices"),
    ],
)
def test_what_it_cannot_be_asked_with_is_refused(
    portrait_shards: Path, overrides: tuple[str, ...], recipe: str, by: str, message: str
):
    with pytest.raises(ValueError, match=message):
        evaluate(faces_of(portrait_shards, *overrides, recipe=recipe), portrait_shards, "test", 10, 0, by)


def test_all_ways_are_those_that_dropout_allows(portrait_shards: Path):
    strict = faces_of(portrait_shards, "condition.speech.dropout=0", recipe="both")
    assert list(evaluate(strict, portrait_shards, "train", num=10, seed=0)) == ["speech", "both"]


def test_a_split_whose_identities_were_trained_on_is_refused(faces: Snapshot, portrait_shards: Path, tmp_path: Path):
    shutil.copytree(portrait_shards, tmp_path / "shards")
    manifest = Manifest.load(tmp_path / "shards")
    train = manifest.splits["train"]
    crossed = manifest.model_copy(update={"splits": manifest.splits | {"test": train}})
    crossed.save(tmp_path / "shards")
    with pytest.raises(ValueError, match="identities of the split are in the training split too"):
        evaluate(faces, tmp_path / "shards", "test", num=10, seed=0)


def test_photographs_are_refused_even_where_their_captions_name_hair(faces: Snapshot, tmp_path: Path):
    raw = Raw(tmp_path / "corpus", people=8)
    recipe = ShardRecipe(
        faces=str(raw.faces), captions=str(raw.root / "captions.jsonl"), out=str(tmp_path / "shards"),
        image={"resolution": 16},
    )  # fmt: skip
    build_shards(recipe, workers=1, progress=False)
    with pytest.raises(
        ValueError,
        match=r"^agreement can .*holds no drawn portraits \(of its own pictures 0\.\d\d agree with their capt",
    ):
        evaluate(faces, tmp_path / "shards", "train", num=4, seed=0)


def test_photographs_with_voices_alone_are_refused_too(voiced_shards: Path, tmp_path: Path):
    raw = Raw(tmp_path / "corpus", people=8)
    for number, (_, voice) in enumerate(raw.voices):
        speak(raw.root / voice, -4 if number % 2 else 1, seconds=0.3)  # 120 and 220 Hz
    recipe = ShardRecipe(
        faces=str(raw.faces), speech=str(raw.root / "speech.csv"), out=str(tmp_path / "shards"),
        image={"resolution": 16},
    )  # fmt: skip
    build_shards(recipe, workers=1, progress=False)
    snapshot = faces_of(voiced_shards, recipe="wav2pix")
    with pytest.raises(
        ValueError,
        match=r"^agreement can .*holds no drawn portraits \(of its own pictures 0\.\d\d agree with their voic",
    ):
        evaluate(snapshot, tmp_path / "shards", "train", num=100, seed=0)


def test_an_empty_split_names_those_that_have_samples_and_what_can_be_read(faces: Snapshot, tmp_path: Path):
    raw = Raw(tmp_path / "corpus", people=4)
    recipe = ShardRecipe(
        faces=str(raw.faces), captions=str(raw.root / "captions.jsonl"), out=str(tmp_path / "shards"),
        image={"resolution": 16}, split={"validation": 0, "test": 0},
    )  # fmt: skip
    build_shards(recipe, workers=1, progress=False)
    with pytest.raises(ValueError, match=r"^agreement .* `t2f-dist demo` draws; the split test .* --split train$"):
        evaluate(faces, tmp_path / "shards", "test", num=4, seed=0)


def test_a_vocabulary_of_other_weights_is_refused(faces: Snapshot, portrait_shards: Path):
    damaged = replace(faces, corpus=Corpus(Vocabulary(["a"]).to_json()))
    with pytest.raises(ValueError, match="vocabulary has 3 entries, its encoder"):
        evaluate(damaged, portrait_shards, "train", num=4, seed=0)


def test_faces_too_small_to_be_read_are_refused(portrait_shards: Path):
    with pytest.raises(ValueError, match="draws faces of 8 pixels, and attributes can be read from 16 on"):
        evaluate(untrained(), portrait_shards, "train", num=4, seed=0)


def test_shards_that_are_not_there_are_named(faces: Snapshot, tmp_path: Path):
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        evaluate(faces, tmp_path / "nowhere", "test", num=4, seed=0)
