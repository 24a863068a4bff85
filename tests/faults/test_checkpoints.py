"""Checkpoints that are damaged, of another configuration, or in a bucket: real launches that go on, or say why not."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from t2f_dist.config.schema import Config
from t2f_dist.storage.folder import Folder
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.loop import train
from tests.end_to_end.launches import (
    Fault,
    assert_same_end,
    assert_same_weights,
    finish,
    launch,
    log_of,
    metrics_of,
    ranks_of,
    repeated_images,
    status_of,
    steps_of,
    struck,
    wait_for,
    weights,
)
from tests.faults.conftest import MID_FADE
from tests.faults.record import record
from tests.faults.test_disk import assert_no_traceback
from tests.training.small import config

Anew = Callable[[str], tuple[Config, Config]]
KILL = {"kind": "kill", "at": "t2f_dist.training.side:Side.step", "images": MID_FADE, "rank": 0}


def killed(config: Config) -> list[str]:
    """A launch whose main rank dies in the middle of the fade; the names of the checkpoints that it leaves."""
    assert finish(config, fault=KILL) != 0
    names = [each.name for each in Archive.of(config).found()]
    assert len(names) == 2, "two are kept"
    return names


def flip(folder: Folder, name: str) -> None:
    content = bytearray(folder.read(name))
    content[len(content) // 2] ^= 16
    folder.write(name, bytes(content))


def cut(folder: Folder, name: str) -> None:
    folder.write(name, folder.read(name)[:-100])


def test_a_flipped_bit_costs_the_images_since_the_checkpoint_before(portrait_shards, tmp_path, capsys):
    """In this process, on one rank."""
    whole = config("house", portrait_shards, tmp_path / "whole", "checkpoint.keep=4")
    assert train(whole, Ranks(60))
    again = whole.model_copy(update={"run": str(tmp_path / "again")})
    shutil.copytree(whole.run, again.run)
    archive = Archive.of(again)
    assert [each.images for each in archive.found()] == [128, 120, 80, 40]
    archive.delete("images-000000000128")
    flip(archive.folder, "images-000000000120/networks.safetensors")
    assert train(again, Ranks(60))
    said = capsys.readouterr()
    assert "resuming at 80 images" in said.out
    assert said.err.count("images-000000000120 is damaged and skipped: networks.safetensors does not match its") == 1
    assert_same_weights(again, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "hurt", "file"),
    [
        ("flipped bit", flip, "networks.safetensors"),
        ("truncated file", cut, "optimizers.safetensors"),
        ("flipped bit", flip, "state.json"),
    ],
)
def test_a_damaged_checkpoint_costs_the_images_since_the_one_before(anew: Anew, kind: str, hurt, file: str):
    settings, quiet = anew("house")
    newest, before = killed(settings)
    archive = Archive.of(settings)
    hurt(archive.folder, f"{newest}/{file}")
    last, when = steps_of(settings)[-1][1], time.time()
    assert finish(settings, module="tests.faults.injected") == 0, log_of(settings)
    reached = int(before.removeprefix("images-"))
    assert f"resuming at {reached:,} images" in log_of(settings)
    warned = [line for line in log_of(settings).splitlines() if line.startswith("warning: checkpoint ")]
    assert len(warned) == 1
    assert newest in warned[0]
    assert "is damaged and skipped" in warned[0]
    assert_same_end(settings, quiet)
    assert any(each.name == newest and each.marked for each in archive.listed()), "kept, for whoever wants to look"
    first = next(at for at, _ in steps_of(settings) if at > when)
    record(f"checkpoint with a {kind}", "the one before, bit-identical", last - reached, first - when)


@pytest.mark.slow
def test_with_all_damaged_or_of_another_configuration_a_run_is_refused(anew: Anew):
    """And changes nothing of what is there."""
    settings, _ = anew("house")
    names = killed(settings)
    archive = Archive.of(settings)
    before = archive.folder.list()
    for other, said in (
        ({"seed": 7}, "was trained with another configuration: seed was 0, now 7. Give the former values, or name"),
        ({"optimizer": {"generator": {"beta_1": 0.5}}}, "optimizer.generator.beta_1 was 0.0, now 0.5"),
    ):
        started = time.time()
        changed = Config.model_validate(settings.model_dump(mode="json") | other)
        assert finish(changed) != 0
        assert said in status_of(settings)["reason"]
        assert_no_traceback(settings)
        assert archive.folder.list() == before
        record("checkpoint of another configuration", "refused, naming the keys", None, time.time() - started)
    for name in names:
        cut(archive.folder, f"{name}/networks.safetensors")
    assert finish(settings) != 0
    assert f"all 2 checkpoints in {archive} are damaged: name another folder with --run" in log_of(settings)
    assert_no_traceback(settings)
    record("all checkpoints damaged", "refused", None, None)


# Of the copy, the watchdog says so; of the thread that writes it, at the next save.
HANGS: dict[str, Fault] = {
    "copied": {"at": "t2f_dist.training.checkpoints.saver:Saver.save", "images": MID_FADE},
    "written": {"at": "t2f_dist.storage.folder:Folder.write", "call": 2, "images": MID_FADE},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HANGS)
def test_a_checkpoint_that_hangs_as_it_is_made_ends_the_run_in_time(anew: Anew, name: str):
    settings, quiet = anew("house")
    hasty = settings.model_copy(update={"train": settings.train.model_copy(update={"timeout_seconds": 5})})
    faults: list[Fault] = [
        {"kind": "sleep", "rank": 0, **HANGS[name]},
        # Storage has longer than anything else; not here.
        {"kind": "set", "at": "t2f_dist.training.launch.bound:STORAGE_SECONDS", "seconds": 5},
    ]
    assert finish(hasty, fault=faults) != 0
    found = status_of(settings)
    assert (found["outcome"], found["retry"]) == ("failed", True), log_of(settings)
    assert found["reason"].startswith('rank 0 hangs in "saving a checkpoint" at '), found["reason"]
    when = struck(settings, 0)
    assert when is not None
    seconds = time.time() - when["time"]
    assert finish(settings, module="tests.faults.injected") == 0, log_of(settings)
    assert_same_end(settings, quiet)
    record(f"hang, checkpoint being {name}", "ended in time, then bit-identical", repeated_images(settings), seconds)


def stored_weights(archive: Archive) -> dict[str, torch.Tensor]:
    found = archive.newest_valid(pytest.fail)
    assert found is not None
    return {
        f"{file.removesuffix('.safetensors')}/{name}": tensor
        for file, content in found.files.items()
        for name, tensor in safetensors.torch.load(content).items()
    }


@pytest.mark.slow
def test_in_a_bucket_a_killed_run_goes_on_and_ends_bit_identical(anew: Anew, bucket: str):
    settings, quiet = anew("house")
    kept = settings.checkpoint.model_copy(update={"folder": f"{bucket}/runs/1"})
    settings = settings.model_copy(update={"checkpoint": kept})
    archive = Archive.of(settings)
    with launch(settings, module="tests.faults.injected") as process:
        wait_for(lambda: any(each.images >= MID_FADE for each in archive.found()), process, "checkpoint in the fade")
        os.kill(ranks_of(process)[0], signal.SIGKILL)
        when = time.time()
        assert process.wait(60) != 0
    last, reached = steps_of(settings)[-1][1], archive.found()[0].images
    assert MID_FADE <= reached < 800
    assert finish(settings, module="tests.faults.injected") == 0, log_of(settings)
    assert f"resuming at {reached:,} images" in log_of(settings)
    assert not (Path(settings.run) / "checkpoints").exists()
    ours, theirs = stored_weights(archive), weights(quiet.run)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert [line["images"] for line in metrics_of(settings)] == [line["images"] for line in metrics_of(quiet)]
    assert len(archive.found()) == 2
    first = next(at for at, images in steps_of(settings) if at > when and images <= reached)
    record("rank killed, checkpoints in a bucket", "goes on, bit-identical", last - reached, first - when)


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_said_before_training(anew: Anew, bucket: str):
    settings, _ = anew("house")
    kept = settings.checkpoint.model_copy(update={"folder": "s3://no-such-bucket-of-ours/runs/1"})
    settings = settings.model_copy(update={"checkpoint": kept})
    started = time.time()
    assert finish(settings) != 0
    assert "no such file: s3://no-such-bucket-of-ours" in status_of(settings)["reason"]
    assert_no_traceback(settings)
    assert "starting at" not in log_of(settings)
    record("bucket of checkpoints missing", "refused in one line", None, time.time() - started)
