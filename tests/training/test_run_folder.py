"""The folder of a run: what a launcher that starts its ranks again in place finds there, and how failures are told."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from t2f_dist.config.schema import Config
from t2f_dist.models.snapshot import Corpus
from t2f_dist.training.growth import Growth
from t2f_dist.training.launch import launcher
from t2f_dist.training.launch.ranks import LAUNCHER_KILLED, Ranks
from t2f_dist.training.loop import train
from t2f_dist.training.run import shared_folder, status
from t2f_dist.training.run.run_folder import RunFolder
from tests.ranks import Pair
from tests.training.short_run import untrained
from tests.training.small import config


@pytest.fixture
def settings(portrait_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of a rank that an elastic launcher started."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    (tmp_path / "run").mkdir()
    return config("house", portrait_shards, tmp_path / "run")


def left_behind(settings: Config, outcome: status.Outcome, reason: str, by: str | None, retry: bool = False) -> Path:
    run = Path(settings.run)
    status.write(run, outcome, reason, retry=retry, launcher=by)
    return run


def test_the_launcher_is_the_parent_process_since_its_start(monkeypatch):
    asked = "from t2f_dist.training.launch import launcher; print(launcher.identity())"
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "none"}
    seen = {
        subprocess.run(
            [sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(seen) == 1
    assert f" {os.getpid()} " in seen.pop()
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launcher.identity() is None


def test_a_run_told_to_stop_leaves_again_where_its_launcher_starts_it_in_place(settings: Config):
    run = left_behind(settings, "preempted", "SIGUSR1 received", launcher.identity())
    before = (run / "status.json").read_bytes()
    assert not train(settings, Ranks(60))
    assert (run / "status.json").read_bytes() == before
    assert not (run / "checkpoints").exists()


def test_what_failed_for_good_is_not_tried_again_in_place(settings: Config):
    run = left_behind(settings, "failed", "too many damaged samples", launcher.identity())
    before = (run / "status.json").read_bytes()
    with pytest.raises(ValueError, match="nothing was mended: too many damaged samples"):
        train(settings, Ranks(60))
    assert (run / "status.json").read_bytes() == before


@pytest.mark.parametrize("outcome", ["preempted", "failed"])
def test_another_launch_goes_on(settings: Config, outcome: status.Outcome):
    run = left_behind(settings, outcome, "for some reason", "host 1 2")
    assert train(settings, Ranks(60))
    assert status.read(run)["outcome"] == "finished"


def test_what_is_worth_another_try_goes_on_in_place(settings: Config):
    run = left_behind(settings, "failed", "rank 1 lost the others", launcher.identity(), retry=True)
    assert train(settings, Ranks(60))
    assert "retry" not in status.read(run)


def test_a_launcher_that_died_elsewhere_stops_no_launcher_that_starts_its_ranks_again(settings, monkeypatch):
    """It may have been another host's: this one was told nothing, and its ranks go on."""
    with monkeypatch.context() as there:
        there.setattr(launcher, "is_gone", lambda: True)
        assert not train(settings, Ranks(60))
    stopped = status.read(Path(settings.run))
    assert (stopped["outcome"], stopped["reason"], stopped["launcher"]) == ("preempted", LAUNCHER_KILLED, None)
    assert train(settings, Ranks(60))
    assert status.read(Path(settings.run))["outcome"] == "finished"


@pytest.mark.parametrize(
    ("rank", "ending", "outcome"), [(1, False, "failed"), (1, True, "running"), (0, True, "failed")]
)
def test_how_a_run_ends_is_the_main_ranks_to_say(settings: Config, rank: int, ending: bool, outcome: str):
    """Another rank reads, of a disk of the network, a status from before rank 0 wrote the last one."""
    ranks = Ranks(60)
    folder = RunFolder(settings, ranks)
    vars(ranks)["rank"] = rank
    folder.ending = ending
    folder.fail(RuntimeError("late"))
    folder.release()
    assert status.read(Path(settings.run))["outcome"] == outcome


def test_what_another_rank_failed_of_is_not_written_over(settings: Config):
    """The main rank may still log the step before it feels that its partner is gone."""
    folder = RunFolder(settings, Ranks(60))
    status.write(Path(settings.run), "failed", "rank 1: a shard is damaged", retry=False)
    folder.note("running", "training", images_seen=8)
    folder.fail(RuntimeError("[gloo/transport] Connection closed by peer"))
    folder.release()
    found = status.read(Path(settings.run))
    assert (found["outcome"], found["reason"], found["retry"]) == ("failed", "rank 1: a shard is damaged", False)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_named_and_is_not_another_run(settings: Config, monkeypatch, number: int):
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.raises(ValueError, match=rf"the disk of {settings.run} has no locks .*: mount it with flock, or put"):
        RunFolder(settings, Ranks(60))


@pytest.mark.parametrize("file", ["status.json", "config.yaml"])
def test_a_full_disk_at_the_start_is_one_line_with_the_folder_and_a_remedy(settings: Config, monkeypatch, file: str):
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    said = f"the folder {settings.run} of the run cannot be written: No space left on device .*; free space there, or"
    with pytest.raises(OSError, match=said) as caught:
        train(settings, Ranks(60))
    assert "Errno" not in str(caught.value)


def _checked(rank: int, world_size: int, shards: Path, runs: list[Path], checkpoints: list[Path | None]) -> str | None:
    there = [f"checkpoint.folder={checkpoints[rank]}"] if checkpoints[rank] else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_folder, "LOOK_SECONDS", 0.3)
        patch.setattr(socket, "gethostname", lambda: f"host-{rank}")
        try:
            RunFolder(config("house", shards, runs[rank], *there), Ranks(60)).release()
        except ValueError as error:
            return str(error)
    return None


def test_a_folder_that_another_host_does_not_see_is_refused_on_all_ranks(pair: Pair, portrait_shards, tmp_path: Path):
    one, other, disk = tmp_path / "one", tmp_path / "other", tmp_path / "disk"
    for folder in (one, other, disk):
        folder.mkdir()
    said = "host host-1 does not see {} as rank 0 does (it is no shared folder there): put {} on a disk that all"
    for same, hosts, elsewhere in (
        (None, [one / "run", one / "run"], [None, None]),
        (None, [one / "run", one / "run"], [disk / "new", disk / "new"]),
        ("`run`", [one / "run", other / "run"], [None, None]),
        ("checkpoint.folder", [one / "run", one / "run"], [disk / "new", other / "new"]),
    ):
        for rank, told in enumerate(pair.run(_checked, portrait_shards, hosts, elsewhere)):
            if same is None:
                assert told is None
            else:
                place = hosts[rank] if same == "`run`" else elsewhere[rank]
                assert told is not None
                assert told.startswith(said.format(place, same))
    assert not list(tmp_path.rglob(".seen-*"))
    assert {path.name for path in (one / "run").iterdir()} == {".lock", "status.json"}


def test_a_status_that_cannot_be_written_is_a_warning_and_the_older_one_stays(settings: Config, capsys, monkeypatch):
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    folder = RunFolder(settings, Ranks(60))
    folder.note("running", "training", images_seen=8)
    before = sorted(folder.path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        for seen in (16, 24):
            folder.note("running", "training", images_seen=seen)
    assert capsys.readouterr().err.count("warning: the status is not written") == 1
    assert json.loads((folder.path / "status.json").read_text())["images_seen"] == 8
    assert sorted(folder.path.iterdir()) == before, "nothing half-written stays"
    folder.note("running", "training", images_seen=32)
    assert status.read(folder.path)["images_seen"] == 32
    folder.release()


def test_a_snapshot_that_cannot_be_written_is_a_warning(portrait_shards, tmp_path, capsys):
    """And the next one is written again; what was there stays."""
    settings = config("house", portrait_shards, tmp_path / "run", "snapshot.keep=2")
    gan, phase = untrained(settings), Growth(settings.stages).at(8)
    folder = RunFolder(settings, Ranks(60))
    snapshots = tmp_path / "run" / "snapshots"
    assert folder.save_snapshot(gan, Corpus(), 8, phase)
    snapshots.rename(tmp_path / "elsewhere")
    snapshots.write_text("no folder")
    assert not folder.save_snapshot(gan, Corpus(), 16, phase)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the snapshot at 16 images is not written: ")
    snapshots.unlink()
    (tmp_path / "elsewhere").rename(snapshots)
    for images in (24, 32):
        assert folder.save_snapshot(gan, Corpus(), images, phase)
    assert sorted(path.name for path in snapshots.iterdir()) == [
        f"images-{images:012d}.safetensors" for images in (24, 32)
    ]
    folder.release()
