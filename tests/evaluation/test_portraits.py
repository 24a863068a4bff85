"""Evaluation on drawn portraits: what stands in the table, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.evaluation.portraits import evaluate
from t2f_dist.models.networks import build
from t2f_dist.models.snapshot import Snapshot
from t2f_dist.portraits.attributes import ATTRIBUTES
from t2f_dist.shard.build import build as build_shards
from t2f_dist.shard.format import Manifest
from t2f_dist.text.vocabulary import Vocabulary
from tests.models.untrained import untrained
from tests.shard.raw import Corpus
from tests.training.small import config

SIXTEEN = (
    "stages=[{resolution: 16, stable_images: 8, batch_size: 8}]",
    "generator.channels=[12, 8, 8]",
    "discriminator.channels=[12, 8, 8]",
)


@pytest.fixture(scope="module")
def faces(portrait_shards: Path) -> Snapshot:
    """Untrained, with the vocabulary of the shards."""
    settings = config("house", portrait_shards, Path("nowhere"), "train.precision=fp32", *SIXTEEN)
    vocabulary = Manifest.load(portrait_shards).read_vocabulary(portrait_shards)
    generator = build(settings, len(Vocabulary.from_json(vocabulary))).generator.requires_grad_(False).eval()
    return Snapshot(generator, settings, vocabulary, images_seen=0, resolution=16, alpha=1.0)


def test_real_portraits_agree_and_an_untrained_drawer_is_at_chance(faces: Snapshot, portrait_shards: Path):
    table = evaluate(faces, portrait_shards, "train", num=60, seed=0)
    assert table.num_captions == 60
    assert list(table.rows) == list(ATTRIBUTES)
    assert table.mean.real > 0.97, "captions and portraits are paired, and the reader reads them"
    assert 0.2 < table.mean.chance < 0.5
    assert table.mean.generated < table.mean.chance + 0.15
    assert evaluate(faces, portrait_shards, "train", num=60, seed=0) == table
    assert evaluate(faces, portrait_shards, "train", num=60, seed=1) != table


def test_a_split_that_holds_fewer_is_taken_whole(faces: Snapshot, portrait_shards: Path):
    num = Manifest.load(portrait_shards).num_samples("test")
    assert 0 < num < 60
    assert evaluate(faces, portrait_shards, "test", num=10**6, seed=0).num_captions == num


def test_a_split_whose_identities_were_trained_on_is_refused(faces: Snapshot, portrait_shards: Path, tmp_path: Path):
    shutil.copytree(portrait_shards, tmp_path / "shards")
    manifest = Manifest.load(tmp_path / "shards")
    train = manifest.splits["train"]
    crossed = manifest.model_copy(update={"splits": manifest.splits | {"test": train}})
    crossed.save(tmp_path / "shards")
    with pytest.raises(ValueError, match="identities of the split are in the training split too"):
        evaluate(faces, tmp_path / "shards", "test", num=10, seed=0)


def test_photographs_are_refused_even_where_their_captions_name_hair(faces: Snapshot, tmp_path: Path):
    raw = Corpus(tmp_path / "corpus", people=8)
    recipe = ShardRecipe(
        faces=str(raw.faces), captions=str(raw.root / "captions.jsonl"), out=str(tmp_path / "shards"),
        image={"resolution": 16},
    )  # fmt: skip
    build_shards(recipe, workers=1, progress=False)
    with pytest.raises(ValueError, match=r"holds no drawn portraits \(of its own pictures 0\.\d\d agree"):
        evaluate(faces, tmp_path / "shards", "train", num=4, seed=0)


def test_a_vocabulary_of_other_weights_is_refused(faces: Snapshot, portrait_shards: Path):
    damaged = replace(faces, vocabulary=Vocabulary(["a"]).to_json())
    with pytest.raises(ValueError, match="vocabulary has 3 entries, its encoder"):
        evaluate(damaged, portrait_shards, "train", num=4, seed=0)


def test_faces_too_small_to_be_read_are_refused(portrait_shards: Path):
    with pytest.raises(ValueError, match="draws faces of 8 pixels, and attributes can be read from 16 on"):
        evaluate(untrained(), portrait_shards, "train", num=4, seed=0)


def test_shards_that_are_not_there_are_named(faces: Snapshot, tmp_path: Path):
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        evaluate(faces, tmp_path / "nowhere", "test", num=4, seed=0)
