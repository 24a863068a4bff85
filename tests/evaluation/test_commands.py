"""`t2f-dist sample` and `t2f-dist evaluate`, as typed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from t2f_dist import cli
from t2f_dist.evaluation.sample import Captions, sample
from t2f_dist.models import snapshot
from t2f_dist.models.networks import build
from t2f_dist.shard.format import Manifest
from t2f_dist.text.vocabulary import Vocabulary
from tests.evaluation.test_portraits import SIXTEEN
from tests.models.untrained import untrained
from tests.training.small import config


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    snapshot.save(tmp_path / "run/snapshots/images-000000000072.safetensors", untrained())
    return tmp_path / "run"


def test_single_pictures_of_captions_from_both_sources(run_folder: Path, tmp_path: Path):
    (tmp_path / "captions.txt").write_text("a man\n\na woman with glasses\n")
    arguments = ["--caption", "red hair", "--captions", tmp_path / "captions.txt", "--num", 3, "--seed", 5]
    result = run("sample", run_folder, *arguments, "--out", f"{tmp_path}/faces/")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"9 pictures in {tmp_path}/faces: 9 faces of 8 pixels, at 72 images\n"
    assert result.stderr == ""
    faces = untrained()
    expected = sample(faces, Captions(faces, ["red hair", "a man", "a woman with glasses"]), 3, 5)
    for path, image in zip(sorted((tmp_path / "faces").iterdir()), expected, strict=True):
        with Image.open(path) as picture:
            assert (np.asarray(picture) == image.permute(1, 2, 0).numpy()).all()


def test_a_grid_from_a_snapshot_alone_and_the_same_for_the_same_seed(run_folder: Path, tmp_path: Path):
    path = shutil.move(run_folder / "snapshots/images-000000000072.safetensors", tmp_path / "faces.safetensors")
    shutil.rmtree(run_folder)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = run("sample", path, "--caption", "a man", "--seed", seed, "--out", tmp_path / f"new/{name}.png")
        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"{tmp_path}/new/{name}.png: 8 faces of 8 pixels, at 72 images\n"
    first, second, other = (np.asarray(Image.open(tmp_path / f"new/{name}.png")) for name in "abc")
    assert (first == second).all()
    assert (first != other).any()


def test_unknown_words_are_named_and_the_face_is_drawn(run_folder: Path, tmp_path: Path):
    text = "a man with a zebra, and a Zebra's hat"
    result = run("sample", run_folder, "--caption", text, "--out", tmp_path / "grid.png")
    assert result.exit_code == 0
    assert result.stderr == f"not in the vocabulary, so without effect: zebra, and, zebra's, hat (in {text!r})\n"
    assert (tmp_path / "grid.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "g.png"], "no caption: give --caption TEXT, or --captions FILE"),
        (["--caption", "zebra", "--out", "g.png"], "caption 'zebra' has no word of the vocabulary"),
        (["--caption", "a man", "--out", "grid"], "end it with one of .png"),
        (["--captions", "nowhere.txt", "--out", "g.png"], "nowhere.txt"),
        (["--captions", ".", "--out", "g.png"], "directory"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    run_folder: Path, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert_refused(run("sample", run_folder, *arguments), message)
    assert not os.listdir()


def test_a_snapshot_that_is_none_is_one_line(tmp_path: Path):
    arguments = ["--caption", "a man", "--out", tmp_path / "g.png"]
    assert_refused(run("sample", tmp_path / "nowhere", *arguments), "no such snapshot or run")
    assert_refused(run("sample", tmp_path, *arguments), "holds no snapshot: train first")
    (tmp_path / "x.safetensors").write_text("hello")
    assert_refused(run("sample", tmp_path / "x.safetensors", *arguments), "not a safetensors file, or is cut short")


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(run_folder: Path, tmp_path: Path, seed: int):
    for command in (["sample", run_folder, "--caption", "a man"], ["evaluate", run_folder]):
        result = run(*command, "--seed", seed, "--out", tmp_path / "g.png")
        assert result.exit_code == 2
        assert "Invalid value for '--seed'" in result.stderr
        assert not (tmp_path / "g.png").exists()


def test_evaluate_prints_the_table_and_writes_it_as_json(portrait_shards: Path, tmp_path: Path):
    settings = config("house", portrait_shards, Path("nowhere"), "train.precision=fp32", *SIXTEEN)
    vocabulary = Manifest.load(portrait_shards).read_vocabulary(portrait_shards)
    generator = build(settings, len(Vocabulary.from_json(vocabulary))).generator
    taken = snapshot.Snapshot(generator, settings, vocabulary, images_seen=72, resolution=16, alpha=1.0)
    snapshot.save(tmp_path / "faces.safetensors", taken)
    arguments = [tmp_path / "faces.safetensors", "--split", "train", "--num", 40]
    result = run("evaluate", *arguments, "--out", tmp_path / "new/table.json")
    assert result.exit_code == 0, result.stderr
    table = json.loads((tmp_path / "new/table.json").read_text())
    assert (table["images_seen"], table["resolution"], table["split"], table["seed"]) == (72, 16, "train", 0)
    last = result.stdout.splitlines()[-1].split()
    assert last[:4] == ["mean", *(f"{table['mean'][column]:.3f}" for column in ("generated", "chance", "real"))]
    assert run("evaluate", *arguments, "--shards", portrait_shards).stdout == result.stdout
    assert_refused(run("evaluate", *arguments, "--shards", tmp_path), "manifest.json is missing")
