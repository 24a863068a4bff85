"""Weights to begin with: filled in to the bit, or refused in one line that says what to change."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t2f_dist.config.schema import Config
from t2f_dist.data.loader import open_samples
from t2f_dist.models import snapshot
from t2f_dist.text.vocabulary import Vocabulary
from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.checkpoints.warm_start import warm_start
from t2f_dist.training.corpus import corpus, facts
from t2f_dist.training.gan import Gan
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.loop import train
from tests.end_to_end.launches import weights
from tests.shard.conftest import embedded  # noqa: F401
from tests.training.short_run import state, unequal, untrained, write_checkpoint
from tests.training.small import config

RECIPES = ("house", "wav2pix", "identity")
ENDS = {"snapshots": "images-000000000128.safetensors", "checkpoints": "images-000000000128"}


@pytest.fixture(scope="module")
def runs(portrait_shards, tmp_path_factory) -> Path:
    """A finished run of some recipes, by name."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe in RECIPES:
        assert train(config(recipe, portrait_shards, folder / recipe), Ranks(60))
    return folder


def started(settings: Config) -> Gan:
    gan = untrained(settings)
    samples = open_samples(settings)
    warm_start(gan, settings, corpus(samples))
    samples.close()
    return gan


def refused(settings: Config, *parts: str) -> None:
    """In one line that names the value; networks that were not refused are as they were."""
    with pytest.raises(ValueError) as caught:
        started(settings)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_generator_of_a_run_or_a_snapshot_and_its_average(portrait_shards, tmp_path, runs, recipe):
    expected = snapshot.load(runs / recipe).generator.state_dict()
    before = untrained(config(recipe, portrait_shards, tmp_path, "seed=5"))
    for source in (runs / recipe, runs / recipe / "snapshots" / ENDS["snapshots"]):
        gan = started(config(recipe, portrait_shards, tmp_path, "seed=5", f"warm_start.generator={source}"))
        assert unequal(gan.networks.generator.state_dict(), expected) == []
        assert unequal(gan.generator_ema.state_dict(), expected) == []
        assert unequal(gan.networks.discriminator.state_dict(), before.networks.discriminator.state_dict()) == []
        assert unequal(before.networks.generator.state_dict(), expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_discriminator_of_a_run_or_a_checkpoint(portrait_shards, tmp_path, runs, recipe):
    prefix = "networks/networks.discriminator."
    kept = {name.removeprefix(prefix): tensor for name, tensor in weights(runs / recipe).items() if prefix in name}
    before = untrained(config(recipe, portrait_shards, tmp_path, "seed=5"))
    for source in (runs / recipe, runs / recipe / "checkpoints" / ENDS["checkpoints"]):
        gan = started(config(recipe, portrait_shards, tmp_path, "seed=5", f"warm_start.discriminator={source}"))
        assert unequal(gan.networks.discriminator.state_dict(), kept) == []
        assert unequal(gan.networks.generator.state_dict(), before.networks.generator.state_dict()) == []
        assert unequal(before.networks.discriminator.state_dict(), kept)


def test_without_one_nothing_is_filled(portrait_shards, tmp_path):
    settings = config("house", portrait_shards, tmp_path)
    gan = started(settings)
    assert unequal(state(gan, tmp_path / "a"), state(untrained(settings), tmp_path / "b")) == []


def test_another_shape_names_what_differs(portrait_shards, tmp_path, runs):
    wider = ("generator.channels=[16,8]", "discriminator.channels=[16,8]")
    for side, shapes in (("generator", "[192, 10] there and [256, 10] here"), ("discriminator", "[12")):
        source = f"warm_start.{side}={runs / 'house'}"
        parts = (f"warm_start.{side} {runs / 'house'} is of another shape", shapes, "give the networks")
        refused(config("house", portrait_shards, tmp_path, *wider, source), *parts)
    other = config("house", portrait_shards, tmp_path, f"warm_start.generator={runs / 'wav2pix'}")
    refused(other, "is another network", "generator.kind is dcgan there and progan here")


def given(settings: Config, to: Path, **changes) -> Path:
    """A snapshot of untrained weights; `changes` to what the shards of the settings say of facts and corpus."""
    samples = open_samples(settings)
    known = {"facts": facts(samples), "corpus": corpus(samples)}
    samples.close()
    for name, change in changes.items():
        known[name] = replace(known[name], **change)
    generator = Gan(settings, known["facts"], torch.device("cpu"), 1).generator_ema
    snapshot.save(to, snapshot.Snapshot(generator, settings, **known, images_seen=0, resolution=8, alpha=1.0))
    return to


@pytest.mark.parametrize(
    ("recipe", "thing"),
    [
        ("house", "vocabulary"),
        ("both", "vocabulary"),
        ("both", "sample rate of voices"),
        ("identity", "list of identities"),
    ],
)
def test_weights_of_the_right_shape_that_learnt_something_else(portrait_shards, tmp_path, recipe, thing):
    settings = config(recipe, portrait_shards, tmp_path)
    samples = open_samples(settings)
    known = corpus(samples)
    words = samples.vocabulary.words if samples.vocabulary else ()
    samples.close()
    changes = {
        "vocabulary": {"corpus": {"vocabulary": Vocabulary(words[::-1]).to_json()}},
        "sample rate of voices": {"facts": {"sample_rate_hz": 15_900}},
        "list of identities": {"corpus": {"identities": known.identities[::-1]}},
    }
    other = given(settings, tmp_path / "other.safetensors", **changes[thing])
    warm = config(recipe, portrait_shards, tmp_path, f"warm_start.generator={other}")
    refused(warm, f"warm_start.generator {other} was trained with another {thing}", "or set warm_start.generator null")
    same = given(settings, tmp_path / "same.safetensors")
    started(config(recipe, portrait_shards, tmp_path, f"warm_start.generator={same}"))


def test_more_words_are_another_vocabulary(portrait_shards, tmp_path):
    settings = config("house", portrait_shards, tmp_path)
    samples = open_samples(settings)
    assert samples.vocabulary is not None
    words = Vocabulary((*samples.vocabulary.words, "zebra"))
    samples.close()
    changes = {"facts": {"num_words": len(words)}, "corpus": {"vocabulary": words.to_json()}}
    more = given(settings, tmp_path / "more.safetensors", **changes)
    refused(config("house", portrait_shards, tmp_path, f"warm_start.generator={more}"), "another vocabulary")


def test_another_sentence_encoder_of_the_same_size(embedded, tmp_path):  # noqa: F811
    stored = "condition.caption={kind: stored}"
    settings = config("house", embedded, tmp_path, stored)
    samples = open_samples(settings)
    embedding = corpus(samples).embedding
    samples.close()
    assert embedding is not None
    other = given(settings, tmp_path / "a.safetensors", corpus={"embedding": embedding | {"sha256": "0" * 64}})
    refused(config("house", embedded, tmp_path, stored, f"warm_start.generator={other}"), "another model of caption")
    longer = {"facts": {"embedding_size": 100}, "corpus": {"embedding": embedding | {"size": 100}}}
    other = given(settings, tmp_path / "c.safetensors", **longer)
    refused(config("house", embedded, tmp_path, stored, f"warm_start.generator={other}"), "another model of caption")
    same = given(settings, tmp_path / "b.safetensors")
    started(config("house", embedded, tmp_path, stored, f"warm_start.generator={same}"))


def test_what_is_not_there_or_not_that(portrait_shards, tmp_path, runs):
    def wanted(side: str, path: object) -> Config:
        return config("house", portrait_shards, tmp_path / "run", f"warm_start.{side}={path}")

    nowhere, file = tmp_path / "nowhere", runs / "house" / "snapshots" / ENDS["snapshots"]
    (tmp_path / "empty").mkdir()
    remedy = "name the folder of a run, or of one of its checkpoints (a snapshot will not do"
    refused(wanted("generator", nowhere), f"warm_start.generator {nowhere}: no such snapshot or run", "name a snapshot")
    refused(wanted("generator", tmp_path / "empty"), "holds no snapshot", "name a snapshot")
    refused(wanted("discriminator", nowhere), f"warm_start.discriminator {nowhere} is no folder", remedy)
    refused(wanted("discriminator", file), f"warm_start.discriminator {file} is no folder", remedy)
    refused(wanted("discriminator", tmp_path / "empty"), "state.json is missing", remedy)
    refused(wanted("discriminator", file.parent), "holds no checkpoint, or a damaged one", remedy)


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_file(portrait_shards, tmp_path, damage):
    settings = config("house", portrait_shards, tmp_path / "run")
    file, gan = given(settings, tmp_path / "given.safetensors"), untrained(settings)
    kept = write_checkpoint(tmp_path / "given" / "checkpoints", gan, checkpoint.State(0, "", {}), keep=2)
    for path in (file, kept / "networks.safetensors"):
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content if damage == "flip" else content[:-1])
    generator = config("house", portrait_shards, tmp_path / "run", f"warm_start.generator={file}")
    refused(generator, f"warm_start.generator {file}: ", "damaged" if damage == "flip" else "cut short", "name a snap")
    critic = config("house", portrait_shards, tmp_path / "run", f"warm_start.discriminator={tmp_path / 'given'}")
    refused(critic, f"warm_start.discriminator {tmp_path / 'given'}", "networks.safetensors does not match", "name the")


def test_a_run_begins_with_them_and_does_not_look_again(portrait_shards, tmp_path, runs):
    """A learning rate that moves nothing: what is there at the end was there at the start."""
    still = [f"optimizer.{side}.learning_rate=1e-300" for side in ("generator", "discriminator", "condition")]
    source = tmp_path / "given.safetensors"
    source.write_bytes((runs / "house" / "snapshots" / ENDS["snapshots"]).read_bytes())
    options = (*still, "seed=5", f"warm_start.generator={source}", f"warm_start.discriminator={runs / 'house'}")
    assert train(config("house", portrait_shards, tmp_path / "run", *options), Ranks(60))
    ours, theirs = snapshot.load(tmp_path / "run"), snapshot.load(runs / "house")
    assert unequal(ours.generator.state_dict(), theirs.generator.state_dict()) == []
    prefix = "networks/networks.discriminator."
    began, ended = (weights(run) for run in (runs / "house", tmp_path / "run"))
    critic = [name for name in began if name.startswith(prefix)]
    assert critic and all(torch.equal(began[name], ended[name]) for name in critic)
    source.unlink()
    longer = config("house", portrait_shards, tmp_path / "run", *options, "stages.1.stable_images=48")
    assert train(longer, Ranks(60)), "gone, and not missed"
