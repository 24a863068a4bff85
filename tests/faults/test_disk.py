"""Disks that are full, read-only, emptied or pulled out under a run: it goes on, or ends in one line and loses little.

Real launches of two ranks on real mounts. A save is made to come half a second after the step, so that three failures
in a row take longer than the test needs to mend the disk.
"""

import json
import os
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from t2f_dist.training.checkpoints.archive import Archive
from tests.end_to_end.launches import (
    Fault,
    assert_same_end,
    assert_same_weights,
    finish,
    launch,
    log_of,
    ranks_of,
    status_of,
    steps_of,
    struck,
    wait_for,
)
from tests.faults.mounts import bound, fill, free, make_read_only, make_writable, sealed, tmpfs, unmount
from tests.faults.record import record

SLOW_SAVES: Fault = {
    "kind": "sleep",
    "at": "t2f_dist.training.checkpoints.saver:Saver.save",
    "call": None,
    "seconds": 0.5,
    "once": False,
}
FAILED = "could not be written to"


def moments(config: Config) -> list[int]:
    return [each.images for each in Archive.of(config).found()]


def errors(config: Config) -> list[str]:
    return [line for line in log_of(config).splitlines() if line.startswith("error: ")]


def assert_no_traceback(config: Config) -> None:
    """But for the launcher's own, which it prints whenever a rank fails."""
    assert not [line for line in log_of(config).splitlines() if "  File " in line and "/t2f_dist/" in line]


def seconds_since(when: float, config: Config) -> float:
    """From a fault to the first step after it."""
    return next(at for at, _ in steps_of(config) if at > when) - when


def hurt_and_mended(config: Config, hurt, mend, said: str = FAILED) -> float:
    """A launch whose disk is hurt after the first checkpoint, and mended once that is said; when it was hurt."""
    with launch(config, fault=SLOW_SAVES) as process:
        wait_for(lambda: moments(config), process, "first checkpoint")
        hurt()
        when = time.time()
        wait_for(lambda: said in log_of(config), process, "word of the failure")
        mend()
        assert process.wait(180) == 0, log_of(config)
    assert errors(config) == []
    assert_no_traceback(config)
    return when


def ends_in_one_line(config: Config, hurt, said: str) -> float:
    """A launch whose disk is hurt after the first checkpoint, and stays so; seconds until its end."""
    with launch(config, fault=SLOW_SAVES) as process:
        wait_for(lambda: moments(config), process, "first checkpoint")
        kept = moments(config)[0]
        hurt()
        when = time.time()
        assert process.wait(180) != 0
    (line, *others) = errors(config)
    assert f"no checkpoint could be written to {Archive.of(config)}, 3 times in a row, the last at " in line
    assert said in line
    assert all("lost the others" in other for other in others)
    assert_no_traceback(config)
    assert log_of(config).count(FAILED) == 2
    found = Archive.of(config).newest_valid(lambda _: None)
    assert found is None or found.body["images_seen"] >= kept
    return time.time() - when


def test_a_full_disk_that_is_freed_costs_no_image(little):
    """Full from the first checkpoint to the failure of the second: the main rank stands still while it is filled."""
    settings, quiet = little
    stop: Fault = {"kind": "stop", "rank": 0, "at": "t2f_dist.training.side:Side.step", "images": 56}
    with tmpfs(Path(settings.run), 8) as disk, launch(settings, fault=[stop, SLOW_SAVES]) as process:
        wait_for(lambda: moments(settings) and struck(settings, 0), process, "first checkpoint")
        fill(disk)
        when = time.time()
        os.kill(ranks_of(process)[0], signal.SIGCONT)
        wait_for(lambda: FAILED in log_of(settings), process, "word of the failure")
        free(disk)
        assert process.wait(180) == 0, log_of(settings)
        assert errors(settings) == []
        assert_no_traceback(settings)
        assert_same_weights(settings, quiet)
        said = "No space left on device; free space there, or lower checkpoint.keep; training goes on"
        assert said in log_of(settings)
        assert not [each for each in Archive.of(settings).listed() if not each.finished]
        record("disk full, then freed", "goes on, bit-identical", 0, seconds_since(when, settings))


@pytest.mark.slow
def test_a_full_disk_that_stays_full_ends_the_run_and_the_last_checkpoint_is_whole(anew):
    settings, quiet = anew("house")
    with tmpfs(Path(settings.run), 8) as disk:
        seconds = ends_in_one_line(settings, lambda: fill(disk), "No space left on device")
        reached = moments(settings)[0]
        last = steps_of(settings)[-1][1]
        free(disk)
        assert finish(settings) == 0, log_of(settings)
        assert f"resuming at {reached:,} images" in log_of(settings)
        assert_same_weights(settings, quiet)
        record("disk full, and stays so", "ends in one line; goes on once freed", last - reached, seconds)


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start_ends_in_one_line(anew):
    settings, _ = anew("house")
    with tmpfs(Path(settings.run), 1) as disk:
        fill(disk)
        started = time.time()
        assert finish(settings) != 0
        assert_no_traceback(settings)
        assert any("No space left on device" in line for line in errors(settings))
        record("disk full from the start", "refused in one line", None, time.time() - started)


@pytest.mark.slow
def test_a_read_only_folder_is_refused_at_the_start(anew):
    settings, _ = anew("house")
    Path(settings.run).mkdir()
    with bound(Path(settings.run), Path(settings.run)) as run:
        assert make_read_only(run)
        started = time.time()
        assert finish(settings) != 0
        assert_no_traceback(settings)
        assert any("Read-only file system" in line for line in errors(settings))
        assert list(run.iterdir()) == []
        record("read-only folder from the start", "refused in one line", None, time.time() - started)


@pytest.fixture
def on_its_own_disk(anew, tmp_path):
    """A run, the quiet one, and the folder of checkpoints, which is a mount of another folder."""
    settings, quiet = anew("house")
    (tmp_path / "disk").mkdir()
    with bound(tmp_path / "disk", Path(settings.run) / "checkpoints") as folder:
        yield settings, quiet, folder


def until(done) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_read_only_for_a_while(on_its_own_disk):
    settings, quiet, folder = on_its_own_disk
    when = hurt_and_mended(settings, lambda: until(lambda: make_read_only(folder)), lambda: make_writable(folder))
    assert "Read-only file system" in log_of(settings)
    assert_same_end(settings, quiet)
    record("disk read-only for a while", "goes on, bit-identical", 0, seconds_since(when, settings))


@pytest.mark.slow
def test_read_only_and_stays_so(on_its_own_disk):
    settings, quiet, folder = on_its_own_disk
    seconds = ends_in_one_line(settings, lambda: until(lambda: make_read_only(folder)), "Read-only file system")
    assert status_of(settings)["outcome"] == "failed"
    assert "3 times in a row" in status_of(settings)["reason"]
    reached, last = moments(settings)[0], steps_of(settings)[-1][1]
    make_writable(folder)
    assert finish(settings) == 0, log_of(settings)
    assert f"resuming at {reached:,} images" in log_of(settings)
    assert_same_end(settings, quiet)
    record("disk read-only, and stays so", "ends in one line; goes on once writable", last - reached, seconds)


@pytest.mark.slow
def test_the_folder_of_the_run_itself_read_only_for_a_while(anew):
    settings, quiet = anew("house")
    with ExitStack() as seal:
        when = hurt_and_mended(settings, lambda: seal.enter_context(sealed(Path(settings.run))), seal.close)
    assert "Read-only file system" in log_of(settings)
    assert_same_weights(settings, quiet)
    record("folder of the run read-only for a while", "goes on, bit-identical", 0, seconds_since(when, settings))


@pytest.mark.slow
def test_the_folder_of_the_run_itself_read_only_and_stays_so(anew):
    settings, quiet = anew("house")
    with ExitStack() as seal:
        seconds = ends_in_one_line(
            settings, lambda: seal.enter_context(sealed(Path(settings.run))), "Read-only file system"
        )
        reached, last = moments(settings)[0], steps_of(settings)[-1][1]
    assert finish(settings) == 0, log_of(settings)
    assert f"resuming at {reached:,} images" in log_of(settings)
    assert_same_weights(settings, quiet)
    record("folder of the run read-only", "ends in one line; goes on once writable", last - reached, seconds)


@pytest.mark.slow
def test_a_disk_that_is_unmounted_and_comes_back(on_its_own_disk, tmp_path):
    """What lies under the mount is the run's own disk: nothing is written there in silence."""
    settings, quiet, folder = on_its_own_disk
    with tmpfs(tmp_path / "other", 8) as other, bound(other, folder), ExitStack() as again:

        def back() -> None:
            assert list(folder.iterdir()) == []
            again.enter_context(bound(other, folder))

        when = hurt_and_mended(settings, lambda: unmount(folder), back)
        assert "on another disk than when the run began: its own was unmounted; mount it again" in log_of(settings)
        assert_same_weights(settings, quiet)
        record("disk unmounted, then back", "goes on, bit-identical", 0, seconds_since(when, settings))


@pytest.mark.slow
def test_checkpoints_that_are_removed_are_written_again(anew):
    settings, quiet = anew("house")
    folder = Path(settings.run) / "checkpoints"
    with launch(settings, fault=SLOW_SAVES) as process:
        wait_for(lambda: moments(settings), process, "first checkpoint")
        folder.rename(folder.with_name("gone"))
        when = time.time()
        shutil.rmtree(folder.with_name("gone"))
        wait_for(lambda: moments(settings), process, "checkpoint after the removal")
        assert process.wait(180) == 0, log_of(settings)
    assert "has vanished, with the checkpoints in it; it is made again" in log_of(settings)
    assert struck(settings, 0)
    assert_same_end(settings, quiet)
    record("folder of checkpoints removed", "goes on, bit-identical", 0, seconds_since(when, settings))


@pytest.mark.slow
def test_a_snapshot_without_a_disk_is_a_warning(anew):
    """The folder of snapshots becomes a file: no folder can be made there."""
    settings, quiet = anew("house")
    Path(settings.run).mkdir()
    (Path(settings.run) / "snapshots").write_text("")
    with launch(settings) as process:
        wait_for(lambda: "the snapshot at" in log_of(settings), process, "word of the snapshot")
        (Path(settings.run) / "snapshots").unlink()
        assert process.wait(180) == 0, log_of(settings)
    assert_same_end(settings, quiet)
    assert json.loads((Path(settings.run) / "status.json").read_text())["outcome"] == "finished"
    record("snapshot that cannot be written", "goes on, bit-identical", 0, None)
