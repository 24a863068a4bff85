"""Scores of photographs that are learnt from and of others: what they are, and that looking changes nothing."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.data.loader import open_samples
from t2f_dist.shard.build import build
from t2f_dist.shard.manifest import Manifest
from t2f_dist.training.growth import Growth
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.loop import train
from t2f_dist.training.run.held_out import HeldOut
from tests.end_to_end.launches import weights
from tests.shard.raw import Corpus
from tests.training.short_run import state, trained, unequal, untrained
from tests.training.small import RECIPES, config
from tests.web import served


def scores(settings, gan=None, images=64) -> dict[str, float]:
    samples = open_samples(settings)
    held_out = HeldOut(settings, samples)
    found = held_out.scores(gan or untrained(settings), Growth(settings.stages).at(images))
    held_out.close()
    samples.close()
    return found


@pytest.fixture(scope="module")
def unheld(tmp_path_factory):
    """Shards without a validation split, and shards whose validation split is of one identity."""
    folder = tmp_path_factory.mktemp("unheld")
    corpus = Corpus(folder / "corpus", people=6)
    for name, share in (("none", 0.0), ("one", 0.17)):
        build(corpus.recipe(folder / name, split={"validation": share, "test": 0}), workers=1, progress=False)
    assert Manifest.load(folder / "none").num_samples("validation") == 0
    assert Manifest.load(folder / "one").num_samples("validation") == 2
    return folder


@torch.no_grad()
def _direct(gan, settings, split: str, phase, num: int) -> float:
    """Written out: no part, no augmentation, no autocast; all that each sample has, and nothing of another."""
    beside = settings.data.model_copy(update={"shuffle_window_shards": 1})
    samples = open_samples(settings.model_copy(update={"data": beside}), split)
    modalities = {name: m.model_copy(update={"dropout": 0.0}) for name, m in settings.condition.modalities.items()}
    samples.wanted = replace(samples.wanted, modalities=modalities, mismatched=frozenset())
    batch = samples.batch([(position, phase.resolution) for position in range(num)])
    samples.close()
    images = batch.images.double() / 127.5 - 1
    halves = torch.nn.functional.avg_pool2d(images, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    images = phase.alpha * images + (1 - phase.alpha) * halves
    critic = gan.networks.discriminator
    embedding = gan.networks.generator.encoder(batch.condition, batch.z)
    features = critic.features(critic.views(images), phase.resolution, phase.alpha)
    return float(critic.logits(features, embedding).mean())


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "identity"])
def test_they_are_the_means_of_plain_scores(portrait_shards, recipe):
    settings = config(recipe, portrait_shards, portrait_shards, "seed=3")
    gan = trained(settings, stop=24)
    phase = Growth(settings.stages).at(64)
    found = scores(settings, gan)
    assert found.keys() == {"reals/training", "reals/held_out"}
    for name, split in (("training", "train"), ("held_out", "validation")):
        assert found[f"reals/{name}"] == pytest.approx(_direct(gan, settings, split, phase, 8), rel=1e-9), name
    assert found["reals/training"] != found["reals/held_out"]


def test_the_same_photographs_all_along_at_the_resolution_at_hand(portrait_shards):
    settings = config("house", portrait_shards, portrait_shards)
    gan, growth = untrained(settings), Growth(settings.stages)
    samples = open_samples(settings)
    held_out = HeldOut(settings, samples)
    first = held_out.scores(gan, growth.at(0))
    assert held_out.scores(gan, growth.at(0)) == first
    held_out.scores(gan, growth.at(100))
    assert {resolution for _, resolution in held_out._batches} == {8}, "those of 4 pixels are let go"
    assert held_out.scores(gan, growth.at(0)) == first
    held_out.close()
    samples.close()


def test_without_a_validation_split_there_is_nothing_to_compare(unheld):
    assert scores(config("house", unheld / "none", unheld)) == {}


@pytest.mark.parametrize("condition", ["condition={identity: {}}", "condition.identity={dropout: 0.5}"])
def test_identities_that_are_held_out_have_no_number_so_nothing_is_compared(portrait_shards, condition):
    assert scores(config("house", portrait_shards, portrait_shards, condition, "data.mismatch_candidates=1")) == {}


def test_both_are_of_the_whole_condition_and_of_nothing_else(portrait_shards):
    settings = config("both", portrait_shards, portrait_shards, "condition.caption.dropout=1")
    samples = open_samples(settings)
    held_out = HeldOut(settings, samples)
    assert held_out.sources.keys() == {"training", "held_out"} and samples not in held_out.sources.values()
    held_out.scores(untrained(settings), Growth(settings.stages).at(0))
    for name, source in held_out.sources.items():
        batch = held_out._batch(name, source, 4)
        assert all(bool((lengths > 0).all()) for _, lengths in batch.condition.values()), name
        assert not any(bool(lengths.any()) for _, lengths in batch.mismatched.values()), name
        assert batch.mismatched_images.numel() == batch.augment.numel() == 0
    of_training = set(held_out._batch("training", held_out.sources["training"], 4).identities.tolist())
    assert isinstance(samples, IndexedSamples)
    first = samples.shards[samples.order.shards_from(0, 1)[0][0]]
    assert of_training <= set(first.index["identity"].view(np.int64).tolist()), (
        "of the shard that the trainer reads first"
    )
    assert samples.wanted.mismatched and samples.wanted.wishes.augment, "what is trained on is left as it is"
    held_out.close()
    samples.close()


def test_a_validation_split_of_one_identity_will_do(unheld):
    assert scores(config("house", unheld / "one", unheld)).keys() == {"reals/training", "reals/held_out"}


@pytest.mark.parametrize(("wanted", "num"), [(11, 12), (8, 8), (4, 4), (3, 4), (0, 0)])
def test_no_group_is_cut_and_none_is_left_out(portrait_shards, wanted, num):
    settings = config("dcgan", portrait_shards, portrait_shards, f"log.held_out_images={wanted}")
    gan = untrained(settings)
    found = scores(settings, gan)
    assert len(found) == (2 if num else 0)
    if num:
        direct = _direct(gan, settings, "train", Growth(settings.stages).at(64), num)
        assert found["reals/training"] == pytest.approx(direct, rel=1e-9)


@pytest.mark.parametrize("recipe", RECIPES)
def test_looking_changes_nothing_that_is_kept(portrait_shards, tmp_path, recipe):
    settings = config(recipe, portrait_shards, tmp_path)
    gan = trained(settings, stop=24)
    before = state(gan, tmp_path)
    scores(settings, gan, images=16)
    assert unequal(before, state(gan, tmp_path)) == []
    assert all(parameter.grad is None for parameter in gan.networks.parameters())


@pytest.mark.parametrize("recipe", ["dcgan", "wav2pix", "both"])
def test_a_run_that_looks_after_each_step_ends_with_the_same_bits(portrait_shards, tmp_path, recipe):
    for name, num in (("looks", 8), ("does-not", 0)):
        options = (f"log.held_out_images={num}", "log.every_images=8", "train.precision=fp32")
        assert train(config(recipe, portrait_shards, tmp_path / name, *options), Ranks(60))
    assert '"reals/held_out"' in (tmp_path / "looks" / "metrics.jsonl").read_text()
    assert '"reals/held_out"' not in (tmp_path / "does-not" / "metrics.jsonl").read_text()
    assert unequal(weights(tmp_path / "looks"), weights(tmp_path / "does-not")) == []


def test_of_remote_shards_one_a_split_is_fetched(portrait_shards, tmp_path: Path):
    num = {split: len(Manifest.load(portrait_shards).shards(split)) for split in ("train", "validation")}
    assert num["train"] > 2, "the window of training is wider than what is fetched"
    local = config("both", portrait_shards, tmp_path)
    gan = untrained(local)
    with served() as web:
        place = web.put_folder(portrait_shards)
        remote = config("both", portrait_shards, tmp_path, f"data.shards={place}", f"data.cache_dir={tmp_path}/cache")
        for images in (0, 64):
            assert scores(remote, gan, images) == scores(local, gan, images)
        fetched = Counter(
            Path(path).name.partition("-")[0] for path, num in web.gets.items() if num and path.endswith(".tar")
        )
    assert fetched == {"train": 1, "validation": 1}
