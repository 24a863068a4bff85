"""Checkpoints in the background: of the moment of the save, one at a time, and no failure that is not said."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from t2f_dist.training.checkpoints import checkpoint, saver
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.saver import Saver
from t2f_dist.training.gan import Gan
from tests import s3
from tests.flaky import flaky
from tests.shard.crashes import killed_before
from tests.training.short_run import read_checkpoint, state, trained, unequal, untrained, write_checkpoint
from tests.training.small import config


@pytest.fixture(scope="module")
def gan(portrait_shards, tmp_path_factory) -> Gan:
    return trained(config("both", portrait_shards, tmp_path_factory.mktemp("run")), stop=72)


class Gate:
    """Lets an archive begin to write when it is opened."""

    def __init__(self, archive: Archive, monkeypatch: pytest.MonkeyPatch):
        self.opened, self.reached = threading.Event(), threading.Event()
        write = archive.write

        def gated(*arguments):
            self.reached.set()
            assert self.opened.wait(60)
            return write(*arguments)

        monkeypatch.setattr(archive, "write", gated)


def at(images: int) -> checkpoint.State:
    return checkpoint.State(images, "abc", {})


@pytest.fixture
def savers() -> Iterator[list[Saver]]:
    """All that a test makes are waited for at its end."""
    made: list[Saver] = []
    yield made
    for each in made:
        each.close()


def test_the_copy_is_of_the_moment_of_the_save(portrait_shards, tmp_path, gan, monkeypatch, savers):
    """Training goes on, while nothing is written yet."""
    archive = Archive(tmp_path / "checkpoints")
    gate = Gate(archive, monkeypatch)
    one = Saver(archive, pytest.fail)
    savers.append(one)
    settings = config("both", portrait_shards, tmp_path)
    running = untrained(settings)
    read_checkpoint(write_checkpoint(tmp_path / "start", gan, at(72)), running)
    before = state(running, tmp_path / "before")
    one.save(running, at(72))
    trained(settings, running, start=72, stop=128)
    after = state(running, tmp_path / "after")
    assert gate.reached.is_set()
    assert archive.found() == []
    gate.opened.set()
    one.wait()
    assert one.write_seconds > 0.0
    loaded = untrained(settings)
    assert read_checkpoint(tmp_path / "checkpoints" / "images-000000000072", loaded) == at(72)
    assert unequal(state(loaded, tmp_path / "loaded"), before) == []
    assert unequal(after, before)


def test_the_next_save_waits_for_the_one_before(tmp_path, gan, monkeypatch, savers):
    archive = Archive(tmp_path / "checkpoints")
    gate = Gate(archive, monkeypatch)
    one = Saver(archive, pytest.fail)
    savers.append(one)
    one.save(gan, at(8))
    short = one.pause_seconds
    opened = time.perf_counter() + 0.3
    timer = threading.Timer(0.3, gate.opened.set)
    timer.start()
    one.save(gan, at(16))
    assert time.perf_counter() >= opened
    assert one.pause_seconds >= 0.25 > short
    one.wait()
    assert [each.images for each in archive.found()] == [16, 8]
    timer.join()


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A folder of checkpoints that can be made useless: a plain file in its place."""
    return tmp_path / "checkpoints"


def block(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def test_a_failure_is_said_and_the_third_in_a_row_ends_it(blocked, gan, savers):
    warnings: list[str] = []
    one = Saver(Archive(blocked), warnings.append)
    savers.append(one)
    block(blocked)
    for turn in (1, 2):
        one.save(gan, at(8 * turn))
        one.close()
        assert len(warnings) == turn
        assert f"the checkpoint at {8 * turn} images could not be written to {blocked}: " in warnings[-1]
        assert "\n" not in warnings[-1]
    blocked.unlink()
    one.save(gan, at(24))
    one.wait()
    assert [each.images for each in one.archive.found()] == [24]
    assert "has vanished" in warnings.pop()
    block(blocked)
    for images in (32, 40):
        one.save(gan, at(images))
    with pytest.raises(OSError, match=r"no checkpoint could be written .*, 3 times in a row, the last at 48 images: "):
        one.save(gan, at(48))
    assert len(warnings) == 4, "the third is the error itself"


def test_at_the_end_a_failure_is_tried_again_for_its_time_then_an_error(blocked, gan, monkeypatch, savers):
    monkeypatch.setattr(saver, "RETRY_SECONDS", 0.02)
    warnings: list[str] = []
    beats: list[float] = []
    one = Saver(Archive(blocked), warnings.append, patience_seconds=0.4)
    savers.append(one)
    block(blocked)
    one.save(gan, at(8))
    started = time.monotonic()
    with pytest.raises(OSError, match=r"[4-9] times in a row, the last at 8 images"):
        one.wait(lambda: beats.append(time.monotonic()))
    assert time.monotonic() - started >= 0.4
    assert len(beats) >= 4
    assert [line for line in warnings if "is not safe yet: it is tried again for 0 s" in line]
    assert len(warnings) == 3, "two failures and the patience; not each try"


def test_at_the_end_a_disk_that_comes_back_within_the_patience_loses_nothing(blocked, gan, monkeypatch, savers):
    """Later than after three tries."""
    monkeypatch.setattr(saver, "RETRY_SECONDS", 0.02)
    one = Saver(Archive(blocked), lambda _: None, patience_seconds=60)
    savers.append(one)
    block(blocked)
    one.save(gan, at(8))
    timer = threading.Timer(0.5, blocked.unlink)
    timer.start()
    one.wait()
    timer.join()
    assert [each.images for each in one.archive.found()] == [8]


def test_a_slow_write_that_gets_on_beats_and_one_that_stands_still_does_not(tmp_path, gan, monkeypatch, savers):
    monkeypatch.setattr(saver, "SLICE_SECONDS", 0.01)
    archive = Archive(tmp_path / "checkpoints")
    one = Saver(archive, pytest.fail)
    savers.append(one)
    gate = Gate(archive, monkeypatch)
    growing = tmp_path / "checkpoints" / "images-000000000008"
    growing.mkdir()
    archive._writing = growing.name
    beats: list[int] = []

    def beat() -> None:
        beats.append(len(beats))
        if len(beats) < 5:
            (growing / "part.tmp").write_bytes(bytes(len(beats)))

    one.save(gan, at(8))
    timer = threading.Timer(1.0, gate.opened.set)
    timer.start()
    one.wait(beat)
    timer.join()
    assert 5 <= len(beats) <= 12, "while it grows; then only as files are done"


def test_an_archive_that_cannot_be_opened_is_one_line_with_a_remedy(tmp_path, monkeypatch):
    archive = Archive(tmp_path / "checkpoints")

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr(archive, "open", full)
    said = rf"no checkpoint can be written to {archive}: No space left on device \({tmp_path}\); free space there, or"
    with pytest.raises(OSError, match=said):
        Saver(archive, pytest.fail)


def test_an_error_that_is_none_of_the_disk_is_raised(tmp_path, gan, monkeypatch, savers):
    one = Saver(Archive(tmp_path / "checkpoints"), pytest.fail)
    savers.append(one)
    monkeypatch.setattr(one.archive, "prune", lambda: 1 // 0)
    one.save(gan, at(8))
    with pytest.raises(ZeroDivisionError):
        one.wait()


def test_a_store_that_is_away_for_a_while(s3_server, bucket, gan, monkeypatch, savers, portrait_shards, tmp_path):
    warnings: list[str] = []
    archive = Archive(f"{bucket}/run", patience=s3.QUICK)
    one = Saver(archive, warnings.append)
    savers.append(one)
    one.save(gan, at(8))
    one.wait()
    with flaky(s3_server.port, ["reset"] * 1000) as proxy:
        s3_server.behind(proxy.port).into(monkeypatch)
        one.save(gan, at(16))
        one.close()
        assert len(warnings) == 1
        assert "given up after 4 tries" in warnings[0]
    s3_server.into(monkeypatch)
    one.save(gan, at(24))
    one.wait()
    assert [each.images for each in archive.found()] == [24, 8]
    found = archive.newest_valid(warnings.append)
    assert found is not None
    loaded = untrained(config("both", portrait_shards, tmp_path))
    assert checkpoint.fill(loaded, found, "there") == at(24)
    assert unequal(state(loaded, tmp_path / "a"), state(gan, tmp_path / "b")) == []


def test_killed_at_every_step_of_the_thread(tmp_path, gan):
    """SIGKILL before every rename, removal and sync, in the process that trains: the one before or the new one."""
    folder = tmp_path / "checkpoints"
    write_checkpoint(folder, gan, at(8))
    write_checkpoint(folder, gan, at(16))
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    seen, number = set(), 0

    def save() -> None:
        one = Saver(Archive(folder), print)
        one.save(gan, at(24))
        one.wait()

    while killed_before(number, save):
        number += 3
        found = Archive(folder).newest_valid(lambda _: None)
        assert found is not None
        seen.add(found.body["images_seen"])
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    assert seen == {16, 24}
    assert [each.images for each in Archive(folder).found()] == [24, 16]


@pytest.mark.gpu
def test_on_a_gpu_the_copy_is_of_the_moment_too(portrait_shards, tmp_path, monkeypatch):
    archive = Archive(tmp_path / "checkpoints")
    gate = Gate(archive, monkeypatch)
    one = Saver(archive, pytest.fail)
    settings = config("both", portrait_shards, tmp_path)
    running = Gan(settings, untrained(settings).facts, torch.device("cuda"), 1)
    before = {name: tensor.clone() for name, tensor in running.networks.state_dict().items()}
    one.save(running, at(8))
    for parameter in running.networks.parameters():
        parameter.data.add_(1.0)
    torch.cuda.synchronize()
    gate.opened.set()
    one.wait()
    read_checkpoint(tmp_path / "checkpoints" / "images-000000000008", running)
    assert unequal(running.networks.state_dict(), before) == []
    one.close()
