import shutil

import pytest
import torch

from t2f_dist.config.load import resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training import checkpoint
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from t2f_dist.training.resume import differences
from t2f_dist.training.step import train_step
from tests.training.small import config

STATE = checkpoint.State(images_seen=72, dataset="abc", config={"seed": 0})


def _trained(settings, gan=None, start=0, stop=72):
    samples = open_samples(settings)
    gan = gan or Gan(settings, len(samples.vocabulary), torch.device("cpu"), 1)
    growth = Growth(settings.stages)
    for batch, (seen, size, _) in zip(
        batches(samples, growth.steps(start), 0, 1, 0), growth.steps(start), strict=False
    ):
        if seen >= stop:
            break
        train_step(gan, batch, growth.at(seen), seen, 1)
        gan.update_ema(seen, size)
    samples.close()
    return gan


def _same(a, b):
    left, right = (gan.networks.state_dict() | gan.generator_ema.state_dict(prefix="ema.") for gan in (a, b))
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("recipe", ["house", "t2f"])
def test_going_on_from_a_checkpoint_is_going_on(portrait_shards, tmp_path, recipe):
    """To the bit, from the middle of a fade, where some blocks have an optimizer state and others have none."""
    settings = config(recipe, portrait_shards, tmp_path, "train.precision=bf16", "train.channels_last=true")
    quiet = _trained(settings, stop=128)
    half = _trained(settings, stop=72)
    path = checkpoint.save(tmp_path, half, STATE, keep=2)
    other_seed = config(recipe, portrait_shards, tmp_path, "train.precision=bf16", "train.channels_last=true", "seed=9")
    loaded = Gan(other_seed, half.networks.generator.text_encoder.words.num_embeddings, torch.device("cpu"), 1)
    loaded.config = settings
    assert not _same(loaded, half)
    assert checkpoint.load(path, loaded) == STATE
    assert _same(loaded, half)
    assert _same(_trained(settings, loaded, start=72, stop=128), quiet)


@pytest.fixture
def saved(portrait_shards, tmp_path):
    gan = Gan(config("house", portrait_shards, tmp_path), 60, torch.device("cpu"), 1)
    folder = tmp_path / "checkpoints"
    for images in (8, 16, 24):
        checkpoint.save(folder, gan, checkpoint.State(images, "abc", {}), keep=3)
    return folder, gan


def test_only_the_newest_are_kept_and_a_half_written_one_is_not_seen(saved):
    folder, gan = saved
    (folder / ".images-000000000040.tmp").mkdir()
    checkpoint.save(folder, gan, checkpoint.State(32, "abc", {}), keep=2)
    assert [path.name for path in checkpoint.found(folder)] == ["images-000000000032", "images-000000000024"]


@pytest.mark.parametrize("name", ["networks.safetensors", "optimizers.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_one_is_skipped_with_a_warning(saved, name, damage):
    folder, gan = saved
    newest = folder / "images-000000000024"
    path = newest / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        if damage == "flip":
            content[len(content) // 2] ^= 1
        path.write_bytes({"flip": content, "cut": content[:-1], "empty": b""}[damage])
    warnings: list[str] = []
    assert checkpoint.newest_valid(folder, warnings.append) == folder / "images-000000000016"
    assert len(warnings) == 1
    assert str(newest) in warnings[0]
    assert [path.name for path in checkpoint.found(folder)] == ["images-000000000016", "images-000000000008"]
    (aside,) = folder.glob("damaged-*")
    with pytest.raises(ValueError, match=r"is damaged: .*(json|safetensors)"):
        checkpoint.load(aside, gan)


def test_with_all_damaged_a_run_does_not_begin_again_in_silence(saved):
    folder, _ = saved
    for path in checkpoint.found(folder):
        (path / "state.json").write_text("{}")
    warnings: list[str] = []
    with pytest.raises(ValueError, match=r"all 3 checkpoints in .* are damaged: name another folder"):
        checkpoint.newest_valid(folder, warnings.append)
    assert len(warnings) == 3


def test_one_of_another_version_is_refused_not_set_aside(saved, monkeypatch):
    folder, _ = saved
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    with pytest.raises(ValueError, match=r"version 1, and this t2f-dist reads t2f-dist-checkpoint version 2"):
        checkpoint.newest_valid(folder, pytest.fail)
    assert len(checkpoint.found(folder)) == 3


def test_with_none_left_there_is_none(saved):
    folder, _ = saved
    for path in checkpoint.found(folder):
        shutil.rmtree(path)
    assert checkpoint.newest_valid(folder, pytest.fail) is None
    assert checkpoint.newest_valid(folder / "nowhere", pytest.fail) is None


def test_a_full_disk_leaves_no_half_checkpoint_and_the_older_ones(saved, monkeypatch):
    folder, gan = saved

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(folder, gan, checkpoint.State(32, "abc", {}), keep=2)
    assert sorted(path.name for path in folder.iterdir()) == [f"images-0000000000{n:02}" for n in (8, 16, 24)]


def test_networks_of_another_shape_are_refused(saved, portrait_shards, tmp_path):
    folder, _ = saved
    other = Gan(config("house", portrait_shards, tmp_path, "generator.channels=[12,4]"), 60, torch.device("cpu"), 1)
    with pytest.raises(ValueError, match=r"is of other networks \(generator_ema\.synthesis"):
        checkpoint.load(folder / "images-000000000024", other)


def test_what_differs_is_named_but_for_what_changes_no_weight(portrait_shards, tmp_path):
    before = config("house", portrait_shards, tmp_path).model_dump(mode="json")
    changed = resolve(
        Config,
        before,
        [
            "seed=4",
            "run=elsewhere",
            "data.num_workers=3",
            "stages.1.fade_images=56",
            "log.every_images=1",
            "train.batch_per_gpu_max=4",
        ],
    )
    assert differences(before, changed.model_dump(mode="json")) == [
        "seed was 0, now 4",
        "stages.1.fade_images was 48, now 56",
    ]
