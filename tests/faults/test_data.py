"""Shards that are hurt while a run reads them, and loader processes that the kernel kills."""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import (
    Fault,
    assert_same_end,
    finish,
    launch,
    log_of,
    ranks_of,
    repeated_images,
    status_of,
    steps_of,
    struck,
    wait_for,
)
from tests.faults.conftest import LITTLE, SHORT
from tests.faults.record import record
from tests.training.small import config

Anew = Callable[[str], tuple[Config, Config]]
LOADING = "t2f_dist.data.dataset:Samples.batch"  # in a loader process


@pytest.fixture
def shards(portrait_shards: Path, tmp_path: Path) -> Path:
    """A copy of our own."""
    shutil.copytree(portrait_shards, tmp_path / "shards")
    return tmp_path / "shards"


def overwrite(path: Path, first: float, last: float) -> None:
    """Other bytes in place, from a share of the file to another, as a broken disk gives them."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(int(first * size))
        file.write(bytes(255 - number % 7 for number in range(int((last - first) * size))))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 9 // 10)


def hurt_midway(settings: Config, hurt: Callable[[], None]) -> int:
    """A launch, in which something is hurt when it trains; its exit code."""
    with launch(settings, module="tests.faults.injected") as process:
        wait_for(lambda: len(steps_of(settings)) >= 15, process, "a step")
        hurt()
        return process.wait(600)


def damaged(settings: Config) -> list[dict[str, object]]:
    """All lines of damaged-RANK.jsonl."""
    files = sorted(Path(settings.run).glob("damaged-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_shard_that_is_hurt_while_it_is_read_is_replaced_sample_by_sample(shards: Path, tmp_path: Path):
    settings = config("house", shards, tmp_path / "run", *LITTLE, "data.max_damaged_fraction=0.5")
    stop: Fault = {"kind": "stop", "rank": 0, "at": "t2f_dist.training.side:Side.step", "images": 8}
    with launch(settings, fault=stop) as process:
        wait_for(lambda: struck(settings, 0), process, "a step")
        overwrite(shards / "train-000002.small", 0.3, 0.7)
        os.kill(ranks_of(process)[0], signal.SIGCONT)
        assert process.wait(300) == 0, log_of(settings)
    lines = damaged(settings)
    assert status_of(settings)["outcome"] == "finished" and lines
    assert {line["shard"] for line in lines} == {"train-000002.tar"}
    assert len(lines) < 20 and max(int(line["position"]) for line in lines) < 128


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "name", "hurt"),
    [
        ("house", "train-000002.small", lambda path: overwrite(path, 0.4, 0.43)),
        ("both", "train-000002.tar", lambda path: overwrite(path, 0.4, 0.43)),
        ("both", "train-000003.tar", truncate),
    ],
)
def test_samples_that_are_damaged_midway_are_replaced_and_counted(shards: Path, tmp_path: Path, recipe, name, hurt):
    settings = config(recipe, shards, tmp_path / "run", *SHORT, "data.max_damaged_fraction=0.5")
    assert hurt_midway(settings, lambda: hurt(shards / name)) == 0, log_of(settings)
    lines = damaged(settings)
    assert status_of(settings)["outcome"] == "finished" and lines
    assert {line["shard"] for line in lines} == {name.replace(".small", ".tar")}
    assert len(lines) < 200 and max(int(line["position"]) for line in lines) < 800
    record(f"shard hurt midway, {Path(name).suffix}", "samples replaced and written down, and the run goes on", 0)


@pytest.mark.slow
def test_more_damage_than_is_allowed_ends_the_run_with_a_line(shards: Path, tmp_path: Path):
    settings = config("house", shards, tmp_path / "run", *SHORT)

    def hurt() -> None:
        for number in (0, 1, 2):
            overwrite(shards / f"train-{number:06d}.small", 0, 1)

    assert hurt_midway(settings, hurt) != 0
    found = status_of(settings)
    assert found["outcome"] == "failed" and not found["retry"]
    assert "samples read were damaged and replaced, more than data.max_damaged_fraction" in found["reason"]
    record("half of the shards hurt midway", "stopped with a line", None)


@pytest.mark.slow
def test_a_tar_that_is_deleted_midway_is_read_on_and_missed_at_the_next_start(shards: Path, tmp_path: Path):
    settings = config("both", shards, tmp_path / "run", *SHORT)
    assert hurt_midway(settings, lambda: (shards / "train-000001.tar").unlink()) == 0, log_of(settings)
    assert damaged(settings) == [] and status_of(settings)["outcome"] == "finished"
    longer = settings.model_copy(update={"run": str(tmp_path / "again")})
    assert finish(longer) != 0
    reason = status_of(longer)["reason"]
    assert "train-000001.tar" in reason and not status_of(longer)["retry"], reason
    record("tar deleted midway", "read on from the open file; the next start stops with a line", 0)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["house", "both"])
def test_a_loader_process_that_is_killed_is_replaced_in_the_same_launch(anew: Anew, recipe: str):
    settings, quiet = anew(recipe)
    faults: list[Fault] = [
        {"kind": "kill", "at": LOADING, "rank": 1, "call": 20},
        {"kind": "kill", "at": LOADING, "rank": 0, "call": 35, "after": True},
    ]
    assert finish(settings, fault=faults) == 0, log_of(settings)
    assert_same_end(settings, quiet)
    said = [line for line in log_of(settings).splitlines() if "was killed by SIGKILL" in line]
    assert len(said) == 2 and all("it is replaced, and reading goes on at" in line for line in said)
    steps = [when for when, _ in steps_of(settings)]
    assert repeated_images(settings) == 0
    pause = max(after - before for before, after in itertools.pairwise(steps))
    record("loader process killed", "replaced, bit-identical", 0, pause)


@pytest.mark.slow
def test_loader_processes_that_are_killed_again_and_again_end_the_run_with_a_line(anew: Anew):
    settings, _ = anew("house")
    assert finish(settings, fault={"kind": "kill", "at": LOADING, "rank": 1, "once": False}) != 0
    found = status_of(settings)
    assert found["outcome"] == "failed"
    assert (
        "loader process" in found["reason"] and "lower data.num_workers, or give the job more memory" in found["reason"]
    )
    record("loader processes killed again and again", "stopped with a line")
