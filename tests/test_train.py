"""The command that starts training: what it refuses, in one line, and what then stands in status.json."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from t2f_dist import train
from t2f_dist.config.load import resolve
from t2f_dist.config.schema import Config
from t2f_dist.training.launch.ranks import Agreement, Ranks
from t2f_dist.training.run import status
from t2f_dist.training.run.run_folder import RunFolder
from tests.ranks import Pair
from tests.training.small import config

ROOT = Path(__file__).resolve().parents[1]


def write(settings: Config, folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return path


def run(*arguments: object) -> Result:
    """One rank, in this process. A run that fails ends with its process, signals and all: here they are put back."""
    before = {number: signal.getsignal(number) for number in Agreement.SIGNALS}
    try:
        return CliRunner().invoke(train.main, [str(argument) for argument in arguments])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """Of shards that are not there."""
    return config("house", tmp_path / "shards", tmp_path / "run")


def test_a_dry_run_needs_neither_shards_nor_launcher(settings: Config, tmp_path: Path):
    path = write(settings, tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "WORLD_SIZE"} | {
        "PYTHONPATH": str(ROOT)
    }
    line = [sys.executable, "-m", "t2f_dist.train", "--config", str(path), "--set", "seed=7", "--dry-run"]
    result = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    head, rest = result.stdout.split("\n\n", 1)
    assert head == "world size 1"
    text, table = rest.rsplit("\n\n", 1) if "\n\n" in rest else rest.split("\nstage", 1)
    assert resolve(Config, yaml.safe_load(text)) == settings.model_copy(update={"seed": 7})
    assert "ranks that share every batch without cutting a group: 1, 2" in table
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_that_is_shipped_has_a_plan_for_one_rank_and_two(path: Path, monkeypatch):
    for world_size in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", world_size)
        result = run("--config", path, "--dry-run")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.startswith(f"world size {world_size}\n")


def test_a_dry_run_never_marks_the_run_that_is_there(settings: Config, tmp_path: Path, monkeypatch):
    (tmp_path / "run").mkdir()
    status.write(tmp_path / "run", "running", "training")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert_refused(run("--config", write(settings, tmp_path), "--dry-run"), "3 ranks cannot share a batch of 8")
    assert status.read(tmp_path / "run")["outcome"] == "running"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "data.flipp=true"], "unknown key data.flipp (did you mean flip?)"),
        (["--set", "seed"], "expected key=value"),
        (["--set", "train.precision=fp8"], "train.precision"),
        (["--set", "stages.0.batch_size=6"], "must be a multiple of 4"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(settings: Config, tmp_path: Path, arguments, message):
    path = write(settings, tmp_path)
    assert_refused(run("--config", path, *arguments), message)
    assert not (tmp_path / "run").exists()


def test_a_configuration_that_is_not_there_is_one_line(tmp_path: Path):
    assert_refused(
        run("--config", tmp_path / "nowhere.yaml"), "nowhere.yaml: cannot be read: No such file or directory"
    )


def test_a_failure_stands_in_the_status_with_the_reason_of_this_launch(settings: Config, tmp_path: Path):
    (tmp_path / "run").mkdir()
    old = {"outcome": "failed", "reason": "of yesterday", "updated": "2020-01-01T00:00:00Z", "wandb_id": "abc"}
    (tmp_path / "run/status.json").write_text(yaml.safe_dump(old))  # not JSON: as good as none
    path = write(settings, tmp_path)
    for _ in range(2):
        assert_refused(run("--config", path), "no such directory of shards")
        found = status.read(tmp_path / "run")
        assert found["outcome"] == "failed"
        assert found["reason"].startswith("no such directory of shards")


def test_an_older_failure_does_not_hide_the_reason_of_this_launch(settings: Config, tmp_path: Path):
    (tmp_path / "run").mkdir()
    status.write(tmp_path / "run", "failed", "of yesterday", wandb_id="abc")
    content = (tmp_path / "run/status.json").read_text().replace(status.now()[:4], "2020", 1)
    (tmp_path / "run/status.json").write_text(content)
    run("--config", write(settings, tmp_path))
    found = status.read(tmp_path / "run")
    assert found["reason"].startswith("no such directory of shards")
    assert found["wandb_id"] == "abc"


def test_a_build_that_did_not_finish_is_said_and_written_down(settings: Config, tmp_path: Path):
    (tmp_path / "shards").mkdir()
    assert_refused(run("--config", write(settings, tmp_path)), "manifest.json is missing")
    found = status.read(tmp_path / "run")
    assert found["outcome"] == "failed"
    assert "manifest.json is missing" in found["reason"]


def test_the_first_failure_of_a_launch_is_kept(settings: Config, tmp_path: Path):
    folder = RunFolder(settings, Ranks(60))
    folder.fail(ValueError("the cause, of another rank"))
    folder.fail(RuntimeError("connection closed by peer"))
    folder.release()
    assert status.read(tmp_path / "run")["reason"] == "the cause, of another rank"


def test_fp16_on_a_cpu_is_refused(portrait_shards: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    settings = config("house", portrait_shards, tmp_path / "run", "train.precision=fp16")
    assert_refused(run("--config", write(settings, tmp_path)), "train.precision fp16 needs a GPU")
    assert status.read(tmp_path / "run")["outcome"] == "failed"


def _launched(rank: int, world_size: int, path: str) -> tuple[int, str, str]:
    result = run("--config", path)
    return result.exit_code, result.stderr, type(result.exception).__name__


def test_ranks_that_would_cut_a_group_are_refused_on_every_rank(pair: Pair, portrait_shards: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    settings = config("house", portrait_shards, tmp_path / "run", batch_size=4)
    for code, errors, kind in pair.run(_launched, str(write(settings, tmp_path))):
        assert (code, kind) == (1, "SystemExit")
        (line,) = errors.splitlines()
        assert line.startswith("error: 2 ranks cannot share a batch of 4")
        assert "Numbers of ranks that fit: 1;" in line
    assert status.read(tmp_path / "run")["reason"].startswith("2 ranks cannot share")


def test_a_folder_in_use_is_refused_on_every_rank_and_its_status_left_alone(
    pair: Pair, portrait_shards: Path, tmp_path: Path
):
    settings = config("house", portrait_shards, tmp_path / "run")
    path = write(settings, tmp_path)
    (tmp_path / "run").mkdir()
    status.write(tmp_path / "run", "running", "training", images_seen=40)
    before = (tmp_path / "run/status.json").read_bytes()
    with open(tmp_path / "run/.lock", "a") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        for code, errors, kind in pair.run(_launched, str(path)):
            assert (code, kind) == (1, "SystemExit")
            (line,) = errors.splitlines()
            assert "is in use by another run: wait for it, or name another folder with --run" in line
        assert (tmp_path / "run/status.json").read_bytes() == before
        assert sorted(item.name for item in (tmp_path / "run").iterdir()) == [".lock", "status.json"]


def test_a_mistaken_command_does_not_undo_a_finished_run(portrait_shards: Path, tmp_path: Path):
    path = write(config("house", portrait_shards, tmp_path / "run"), tmp_path)
    assert run("--config", path).exit_code == 0
    before = status.read(tmp_path / "run")
    assert (before["outcome"], before["total_images"]) == ("finished", 128)
    longer = ["--set", "stages.1.stable_images=1000"]
    assert_refused(run("--config", path, "--set", "seed=4", *longer), "seed was 0, now 4")
    found = status.read(tmp_path / "run")
    refused = found.pop("refused")
    assert found == before, "nothing but the note is new"
    assert "was trained with another configuration" in refused
    assert len(refused) <= 400 and "\n" not in refused
    assert run("--config", path).exit_code == 0
    assert "refused" not in status.read(tmp_path / "run"), "the right command again leaves no note"


def test_a_launch_that_fails_before_the_folder_is_held_leaves_a_finished_run(
    settings: Config, tmp_path: Path, monkeypatch
):
    (tmp_path / "run").mkdir()
    status.write(tmp_path / "run", "finished", "all images shown", images_seen=128)
    content = (tmp_path / "run/status.json").read_text().replace(status.now()[:4], "2020", 1)
    (tmp_path / "run/status.json").write_text(content)
    before = status.read(tmp_path / "run")

    def alone(self, timeout_seconds):
        raise ValueError("the launcher started 2 ranks, but rank 0 sees 1" + " and says so" * 30)

    monkeypatch.setattr("t2f_dist.training.launch.ranks.Ranks.__init__", alone)
    assert_refused(run("--config", write(settings, tmp_path)), "the launcher started 2 ranks")
    found = status.read(tmp_path / "run")
    refused = found.pop("refused")
    assert found == before
    assert "the launcher started 2 ranks" in refused
    assert len(refused) == 400


def test_ranks_that_are_alone_replace_an_older_outcome(settings: Config, tmp_path: Path, monkeypatch):
    """A failure before the folder is held: a script that reads the status must not start the run for ever."""
    (tmp_path / "run").mkdir()
    status.write(tmp_path / "run", "preempted", "SIGTERM received")
    content = (tmp_path / "run/status.json").read_text().replace(status.now()[:4], "2020", 1)
    (tmp_path / "run/status.json").write_text(content)

    def alone(self, timeout_seconds):
        raise ValueError("the launcher started 2 ranks, but rank 0 sees 1")

    monkeypatch.setattr("t2f_dist.training.launch.ranks.Ranks.__init__", alone)
    assert_refused(run("--config", write(settings, tmp_path)), "the launcher started 2 ranks")
    assert status.read(tmp_path / "run")["outcome"] == "failed"
