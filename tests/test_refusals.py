"""Shards, weights and combinations that cannot be trained with: one line that says what to change, before any step."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from t2f_dist.shard.build import build
from t2f_dist.training.run import status
from tests.ranks import Pair
from tests.shard.raw import Corpus
from tests.test_train import ROOT, _launched, assert_refused, run, write
from tests.training.short_run import checkpoints_in
from tests.training.small import config


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of faces alone, `many` of 6 people and `one` of a single one; `mute` has their captions too."""
    folder = tmp_path_factory.mktemp("bare")
    faces = {"captions": None, "speech": None, "split": {"validation": 0, "test": 0}}
    many, one = Corpus(folder / "people", people=6), Corpus(folder / "person", people=1)
    build(many.recipe(folder / "many", **faces), workers=1, progress=False)
    build(many.recipe(folder / "mute", speech=None, split=faces["split"]), workers=1, progress=False)
    build(one.recipe(folder / "one", **faces), workers=1, progress=False)
    return folder


def assert_nothing_begun(folder: Path, reason: str) -> None:
    """The folder has at most what says why: no configuration, log, snapshot or checkpoint of a run that never was."""
    assert {path.name for path in folder.iterdir()} <= {".lock", "status.json"}
    told = status.read(folder)
    assert told["outcome"] == "failed"
    assert reason in told["reason"]


@pytest.mark.parametrize(
    ("recipe", "shards", "overrides", "message"),
    [
        ("wav2pix", "mute", [], "holds no voices: shard with --speech, or set condition.speech null"),
        ("both", "mute", [], "holds no voices: shard with --speech"),
        ("house", "many", [], "holds no captions: shard with --captions, or set condition.caption null"),
        ("house", "mute", ["condition.caption={kind: stored}"], "holds no caption embeddings: shard with --embed"),
        ("unconditional", "one", ["loss.identity.image_weight=1"], "use shards with at least 2, or 0"),
        (
            "house",
            "mute",
            ["train.precision=fp16"],
            "train.precision fp16 needs a GPU, and this run is on the cpu",
        ),
        ("house", "mute", ["warm_start.generator=nowhere"], "warm_start.generator nowhere: no such snapshot or run"),
        ("house", "mute", ["warm_start.discriminator=nowhere"], "warm_start.discriminator nowhere is no folder: name"),
        ("house", "mute", ["train.batch_per_gpu_max=2"], "train.batch_per_gpu_max 2 is below the group of 4 images"),
        ("house", "nowhere", [], "no such directory of shards"),
    ],
)
def test_what_the_shards_or_this_machine_lack(bare: Path, tmp_path: Path, recipe, shards, overrides, message: str):
    settings = config(recipe, bare / shards, tmp_path / "run", *overrides)
    assert_refused(run("--config", write(settings, tmp_path)), message)
    assert_nothing_begun(tmp_path / "run", message)


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("dcgan", ["loss.penalties=[{kind: r1}]"], "batch normalisation in the discriminator mixes them: set"),
        ("wgan_clipped", ["loss.penalties=[{kind: wgan_gp}]"], "loss.penalties wgan_gp asks for the gradient of each"),
        ("house", ["condition.caption=null"], "discriminator.head projection with no condition: use unconditional"),
        ("house", ["discriminator.head=unconditional"], "with the condition caption: use concat or projection"),
        ("unconditional", ["loss.matching.weight=1"], "loss.matching.weight is 1.0, and there is no condition: set it"),
        ("wav2pix", ["condition.speech.dropout=0.5"], "speech is the only one: set it to 0"),
        ("msggan", ["generator.kind=dcgan"], "generator.normalize_latent"),
        ("house", ["loss.penalties=[{kind: wgan_gp}]"], "wgan_gp belongs to loss.adversarial.kind wgan; use r1 or r2"),
        ("house", ["loss.adversarial.kind=wgan", "loss.adversarial.real_label=0.9"], "and wgan has none: set it to 1"),
        ("dcgan", ["batch_norm.group_size=3"], "batch_norm.group_size 3 does not divide"),
    ],
)
def test_a_combination_that_is_impossible_leaves_no_folder(tmp_path: Path, recipe, overrides, message: str):
    path = write(config(recipe, tmp_path / "shards", tmp_path / "run"), tmp_path)
    assert_refused(run("--config", path, *(part for item in overrides for part in ("--set", item))), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("side", ["generator", "discriminator"])
def test_a_warm_start_of_another_shape_and_the_corrected_command_in_its_folder(bare: Path, tmp_path: Path, side: str):
    given = tmp_path / "given"
    assert run("--config", write(config("house", bare / "mute", given), tmp_path)).exit_code == 0
    wider = (f"{side}.channels=[16,8]", f"warm_start.{side}={given}")
    path = write(config("house", bare / "mute", tmp_path / "run", *wider), tmp_path)
    assert_refused(run("--config", path), f"warm_start.{side} {given} is of another shape")
    assert_nothing_begun(tmp_path / "run", "is of another shape")
    corrected = run("--config", path, "--set", f"{side}.channels=[12,8]")
    assert corrected.exit_code == 0, corrected.output
    assert status.read(tmp_path / "run")["outcome"] == "finished"
    assert checkpoints_in(tmp_path / "run" / "checkpoints")[0].name == "images-000000000128"


def test_every_rank_refuses_and_one_reason_is_kept(pair: Pair, bare: Path, tmp_path: Path):
    path = write(config("wav2pix", bare / "mute", tmp_path / "run"), tmp_path)
    for code, errors, kind in pair.run(_launched, str(path)):
        assert (code, kind) == (1, "SystemExit")
        (line,) = errors.splitlines()
        assert line.startswith("error: ") and "holds no voices" in line
    assert_nothing_begun(tmp_path / "run", "holds no voices")


@pytest.mark.parametrize(
    ("write_settings", "message"),
    [
        (lambda bare, run: config("wav2pix", bare / "mute", run), "holds no voices"),
        (lambda bare, run: config("house", bare / "mute", run, "train.precision=fp16"), "fp16 needs a GPU"),
    ],
    ids=["voices", "fp16"],
)
def test_as_a_command_of_its_own(bare: Path, tmp_path: Path, write_settings: Callable, message: str):
    path = write(write_settings(bare, tmp_path / "run"), tmp_path)
    line = [sys.executable, "-m", "t2f_dist.train", "--config", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.startswith("error: ") and message in error
    assert "Traceback" not in done.stdout
    assert_nothing_begun(tmp_path / "run", message)
