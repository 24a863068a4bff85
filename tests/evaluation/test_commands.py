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
from t2f_dist.evaluation.conditions import Conditions
from t2f_dist.evaluation.sample import sample
from t2f_dist.models import snapshot
from t2f_dist.shard.manifest import Manifest
from tests.evaluation.test_conditions import TEXTS, voices  # noqa: F401
from tests.evaluation.test_portraits import faces_of
from tests.models.untrained import untrained


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
    conditions = Conditions(faces)
    asked = conditions.asked({"caption": ["red hair", "a man", "a woman with glasses"]})
    expected = sample(faces, conditions, asked, 3, 5)
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


def saved(folder: Path, *overrides: str, recipe: str) -> Path:
    snapshot.save(folder / "faces.safetensors", untrained(*overrides, recipe=recipe))
    return folder / "faces.safetensors"


def test_captions_and_voices_are_one_grid_and_its_cells_in_a_folder(voices: list[str], tmp_path: Path):  # noqa: F811
    path = saved(tmp_path, recipe="both")
    folder = Path(voices[0]).parent
    captions = ["--caption", TEXTS[0], "--caption", TEXTS[1]]
    result = run("sample", path, *captions, "--voices", folder, "--out", tmp_path / "grid.png")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{tmp_path}/grid.png: 6 faces of 8 pixels")
    assert run("sample", path, *captions, "--voices", folder, "--out", f"{tmp_path}/all/").exit_code == 0
    single = run("sample", path, *captions[2:], "--voice", voices[2], "--out", f"{tmp_path}/one/")
    assert single.exit_code == 0, single.stderr
    assert len(os.listdir(tmp_path / "all")) == 6
    (one,) = (tmp_path / "one").iterdir()
    assert one.name == "000-a-woman-with-red-hair-000-voice-2-wav.png"
    assert one.read_bytes() == (tmp_path / "all/001-a-woman-with-red-hair-002-voice-2-wav.png").read_bytes()
    refused = run("sample", path, *captions, "--voices", folder, "--num", 3, "--out", tmp_path / "no.png")
    assert_refused(refused, "--num 3: columns are voices here")


@pytest.mark.parametrize(
    ("recipe", "arguments", "faces", "note"),
    [
        ("both", ["--voice", "VOICE", "--num", 3], 3, ""),
        ("both", ["--caption", "a man", "--num", 3], 3, ""),
        ("wav2pix", ["--voice", "VOICE", "--voices", "VOICES"], 4, "this generator takes no noise"),
        ("identity", ["--identity", "Ada", "--identity", "p 3", "--num", 2], 4, ""),
        ("unconditional", ["--num", 10], 10, ""),
        ("msggan", ["--caption", "a man"], 8, ""),
    ],
)
def test_every_kind_of_snapshot_is_asked_in_its_own_way(
    voices: list[str],  # noqa: F811
    tmp_path: Path,
    recipe: str,
    arguments: list[object],
    faces: int,
    note: str,
):
    path = saved(tmp_path, recipe=recipe)
    places = {"VOICE": voices[0], "VOICES": Path(voices[0]).parent}
    given = [places.get(str(argument), argument) for argument in arguments]
    for name in "ab":
        result = run("sample", path, *given, "--out", tmp_path / f"{name}.png")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.startswith(f"{tmp_path}/{name}.png: {faces} faces of 8 pixels")
        assert result.stderr.startswith(note)
        assert bool(result.stderr) == bool(note)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_voices_of_folders_are_labelled_by_their_paths_below(voices: list[str], tmp_path: Path):  # noqa: F811
    for number, name in enumerate(("ann/10.wav", "ann/9.wav", "bob/9.wav")):
        (tmp_path / "voices" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(voices[number], tmp_path / "voices" / name)
    path = saved(tmp_path, recipe="both")
    result = run("sample", path, "--voices", tmp_path / "voices", "--num", 1, "--out", f"{tmp_path}/faces/")
    assert result.exit_code == 0, result.stderr
    names = ["000-ann-9-wav-000.png", "001-ann-10-wav-000.png", "002-bob-9-wav-000.png"]
    assert sorted(item.name for item in (tmp_path / "faces").iterdir()) == names
    result = run("sample", path, "--voice", voices[0], "--num", 1, "--out", tmp_path / "g.png")
    assert result.stdout == f"{tmp_path}/g.png: 1 face of 8 pixels, at 72 images\n"


def test_samples_of_shards_as_conditions(portrait_shards: Path, tmp_path: Path):
    path = saved(tmp_path, recipe="both")
    arguments = ["--shards", portrait_shards, "--split", "train", "--rows", 3, "--num", 2]
    result = run("sample", path, *arguments, "--out", f"{tmp_path}/faces/")
    assert result.exit_code == 0, result.stderr
    assert len(os.listdir(tmp_path / "faces")) == 6
    refused = run("sample", path, *arguments, "--caption", "a man", "--out", tmp_path / "g.png")
    assert_refused(refused, "--shards brings its own conditions")


@pytest.mark.parametrize(
    ("recipe", "overrides", "arguments", "message"),
    [
        ("both", ["condition.speech.dropout=0"], ["--caption", "a man"], "(condition.speech.dropout is 0): give --voi"),
        ("both", [], [], "no condition: give --caption TEXT"),
        ("house", [], ["--caption", "a man", "--voice", "a.wav"], "not trained with a voice"),
        ("both", [], ["--voice", "nowhere.wav"], "voice nowhere.wav: no such file"),
        ("both", [], ["--voices", "nowhere"], "no such folder of voices: nowhere"),
        ("identity", [], ["--identity", "nobody"], "identity 'nobody' is none of the 3"),
        ("unconditional", [], ["--caption", "a man"], "not trained with a caption"),
        (
            "house",
            ["condition={caption: {kind: stored}}"],
            ["--caption", "a man"],
            "of the model 'small-model' (sha256 00000000...): give its",
        ),
        ("house", [], ["--caption", "a man", "--embed", "model"], "reads no caption by a sentence encoder"),
    ],
)
def test_what_a_snapshot_cannot_be_asked_with_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    overrides: list[str],
    arguments: list[str],
    message: str,
):
    path = saved(tmp_path, *overrides, recipe=recipe)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert_refused(run("sample", path, *arguments, "--out", "g.png"), message)
    assert not os.listdir()


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
        (
            ["--caption", "a man", "--num", "3000", "--out", "g.webp"],
            "3,000 faces in 1 row are no grid, which",
        ),
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


def test_evaluate_prints_a_table_a_way_and_writes_them_as_json(portrait_shards: Path, tmp_path: Path):
    snapshot.save(tmp_path / "faces.safetensors", faces_of(portrait_shards, recipe="both"))
    arguments = [tmp_path / "faces.safetensors", "--split", "train", "--num", 40, "--shards", portrait_shards]
    result = run("evaluate", *arguments, "--out", tmp_path / "new/table.json")
    assert result.exit_code == 0, result.stderr
    content = json.loads((tmp_path / "new/table.json").read_text())
    assert (content["images_seen"], content["resolution"], content["split"], content["seed"]) == (72, 16, "train", 0)
    assert list(content["by"]) == ["caption", "speech", "both"]
    lines = result.stdout.splitlines()
    assert len(lines) == 3 * 11
    for number, (way, start) in enumerate(
        {"caption": "caption alone", "speech": "speech alone", "both": "cap"}.items()
    ):
        table = content["by"][way]
        part = lines[11 * number : 11 * (number + 1)]
        assert part[0].startswith(f"from {start}")
        assert ": 40 samples of the train split of" in part[0]
        last = part[-1].split()
        assert last[:4] == ["mean", *(f"{table['mean'][column]:.3f}" for column in ("generated", "chance", "real"))]
        assert last[4:6] == ["of", "40"]
        assert last[6:] == [f"{table['mean'][column]:.3f}" for column in ("unnamed", "unnamed_chance")]
    assert run("evaluate", *arguments, "--by", "speech").stdout.splitlines() == lines[11:22]
    assert run("evaluate", *arguments).stdout == result.stdout
    assert_refused(run("evaluate", *arguments[:-1], tmp_path), "manifest.json is missing")


def test_evaluate_reads_the_shards_that_the_snapshot_was_trained_on(portrait_shards: Path, tmp_path: Path):
    faces = faces_of(portrait_shards, f"data.shards={portrait_shards}")
    snapshot.save(tmp_path / "faces.safetensors", faces)
    result = run("evaluate", tmp_path / "faces.safetensors")
    assert result.exit_code == 0, result.stderr
    num = Manifest.load(portrait_shards).num_samples("test")
    assert f"{num} samples of the test split of {portrait_shards}, no combination of which stands in" in result.stdout
