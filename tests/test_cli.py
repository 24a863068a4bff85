"""The command line: help at once, one line for an error."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from t2f_dist import cli
from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.manifest import Manifest
from tests.shard.raw import Corpus

COMMANDS = [[], *([name] for name in cli.main.commands)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def assert_one_line(result: Result, message: str) -> None:
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "t2f-dist")
def test_help_is_quick_and_loads_nothing_heavy(command: list[str]):
    code = (
        "import sys; from t2f_dist.cli import main; main(sys.argv[1:], standalone_mode=False); "
        "heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'webdataset'} & set(sys.modules); assert not heavy, heavy"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert result.returncode == 0, result.stderr
        assert "Usage" in result.stdout
    assert min(seconds) < 0.5


def test_flags_show_the_defaults_of_the_recipe():
    recipe = ShardRecipe(faces="f", out="o").model_dump()
    text = " ".join(run("shard", "--help").output.split())
    for flag, field in cli.shard._SHARD_FLAGS.items():
        section, _, key = field.rpartition(".")
        default = recipe[section][key] if section else recipe[key]
        option = next(option for option in cli.main.commands["shard"].params if option.name == flag)
        if default is not None and not isinstance(default, bool) and flag not in ("faces", "out"):
            assert f"[default: {default}" in " ".join(option.to_info_dict()["help"].split()), flag
        assert option.opts[0] in text


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus", people=8)


def test_flags_a_recipe_and_both_make_the_same_shards(corpus: Corpus, tmp_path: Path):
    sources = ["--faces", corpus.faces, "--captions", corpus.root / "captions.jsonl"]
    result = run("shard", *sources, "--out", tmp_path / "a", "--resolution", 16, "--workers", 1, "--test", 0.3)
    assert result.exit_code == 0, result.output
    assert "images: 16 found = 16 stored + 0 rejected + 0 unmatched" in result.output

    fields = {"faces": str(corpus.faces), "captions": "nowhere", "image": {"resolution": 32}, "split": {"test": 0.3}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(fields))
    both = ["--captions", corpus.root / "captions.jsonl", "--set", "image.resolution=16"]
    result = run("shard", tmp_path / "recipe.yaml", *both, "--out", tmp_path / "b", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert Manifest.load(tmp_path / "a") == Manifest.load(tmp_path / "b")

    sheet = tmp_path / "new/sheet.png"
    result = run("inspect", tmp_path / "a", "--out", sheet, "--num", 4)
    assert result.exit_code == 0, result.output
    with Image.open(sheet) as image:
        assert image.width > 4 * 160

    assert run("verify", tmp_path / "a", "--decode").exit_code == 0
    shard = tmp_path / "a" / Manifest.load(tmp_path / "a").shards("train")[0].name
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    result = run("verify", tmp_path / "a")
    assert shard.name in result.stdout
    assert_one_line(result, "1 damaged")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shard"], "faces is required"),
        (["shard", "--faces", "nowhere", "--out", "x"], "no such folder of faces: nowhere"),
        (["shard", "nowhere.yaml"], "nowhere.yaml"),
        (["shard", "--faces", "f", "--out", "x", "--resolution", "48"], "48 is not a power of two"),
        (["shard", "--faces", "f", "--out", "x", "--set", "image.resolutoin=4"], "did you mean resolution"),
        (["shard", "--faces", "f", "--out", "x", "--set", "nonsense"], "nonsense"),
        (["shard", "--faces", "f", "--out", "x", "--embed", "m"], "--embed needs captions"),
        (["shard", "--layout", "wav2pix", "--faces", "f", "--out", "x", "--embed", "m"], "--embed needs captions"),
        (["shard", "--layout", "webdataset", "--faces", "f", "--out", "x", "--embed", "m"], "no .tar at f"),
        (["verify", "nowhere"], "no such directory of shards: nowhere"),
        (["inspect", "nowhere"], "no such directory of shards: nowhere"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(run(*arguments), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("voices", ["--voices", "--no-voices"])
def test_demo_ends_with_what_is_there_and_a_command_that_shards_it(voices: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = ["demo", "--out", "my data/portraits", "--num", 30, "--resolution", 24, "--workers", 1, voices]
    for there in ("", ", there already"):
        result = run(*draw)
        assert result.exit_code == 0, result.output
        said, following = result.stdout.splitlines()
        assert said.startswith(f"my data/portraits: 30 portraits of 24 pixels{there}: faces/, captions.jsonl with 5")
        assert ("speech.csv" in said) == (voices == "--voices")
    result = run(*shlex.split(following)[2:], "--workers", 1)
    assert result.exit_code == 0, result.output
    manifest = Manifest.load("shards/portraits")
    assert (manifest.image_resolution, manifest.totals["captions"].stored) == (16, 150)
    assert ("voices" in manifest.totals) == (voices == "--voices")
    assert_one_line(run(*draw, "--seed", 3), "choose another folder, or replace it with --overwrite")


def test_traceback_on_request():
    result = run("--traceback", "verify", "nowhere")
    assert isinstance(result.exception, FileNotFoundError)


def test_an_error_brings_nothing_that_a_terminal_would_act_on():
    result = run("inspect", "no\x1b[31mwhere")
    assert result.exit_code == 1 and "\x1b" not in result.output
