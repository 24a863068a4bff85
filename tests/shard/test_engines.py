"""Who makes the shards plays no part; a process that dies, a full disk or a lost worker of a cluster cost nothing."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from t2f_dist.shard import engine
from t2f_dist.shard.build import ShardsFailed, make
from t2f_dist.shard.corpus import plan
from t2f_dist.shard.embed import Embedder
from t2f_dist.shard.manifest import SPLITS
from t2f_dist.shard.manner import Manner
from t2f_dist.shard.task import Job, tasks
from t2f_dist.shard.work import Failed, Fault, fault
from t2f_dist.storage.patience import Unreachable
from tests.shard.raw import Corpus, draw
from tests.shard.test_build import files
from tests.shard.test_restart import command, finished, records


class Killer(threading.Thread):
    """Kills workers of the pool that the main thread runs, whenever there are some and its condition holds."""

    def __init__(self, times: int):
        super().__init__(daemon=True)
        self.times, self.stop = times, False
        self.main = threading.main_thread().native_id
        self.others = self._children()  # such as the ranks that other tests share

    def _children(self) -> set[int]:
        return set(map(int, Path(f"/proc/self/task/{self.main}/children").read_text().split()))

    def run(self) -> None:
        while self.times and not self.stop:
            time.sleep(0.05)
            for child in self._children() - self.others:
                try:
                    spawned = b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if spawned and self.times:
                    self.times -= 1
                    os.kill(child, signal.SIGKILL)


def test_workers_that_are_killed_cost_nothing(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=10)
    killer = Killer(times=2)
    killer.start()
    report = make(corpus.recipe(tmp_path / "out", samples_per_shard=1), Manner(workers=2, progress=False, retries=3))
    assert killer.times == 0
    assert report.written == 20
    assert files(tmp_path / "out") == finished(corpus, tmp_path / "whole", samples_per_shard=1)


def test_a_shard_that_fails_is_named_and_the_others_are_kept(tmp_path: Path):
    """A folder stands where its tar is to stand, so that the rename fails; the same command goes on without it."""
    corpus = Corpus(tmp_path / "corpus", people=6)
    out = tmp_path / "out"
    recipe = corpus.recipe(out, samples_per_shard=1, split={"validation": 0, "test": 0})
    said = r"1 of 12 shards failed, 11 written, 0 kept .*train-000004: .*directory"
    for workers in (1, 2):
        manner = Manner(workers=workers, progress=False)
        (out / "train-000004.tar").mkdir(parents=True)
        with pytest.raises(ShardsFailed, match=said) as error:
            make(recipe, manner)
        assert "(3 tries)" in str(error.value)
        assert "\n" not in str(error.value)
        assert len(records(out)) == 11
        (out / "train-000004.tar").rmdir()
        report = make(recipe, manner)
        assert (report.written, report.kept) == (1, 11)
        assert files(out) == finished(corpus, tmp_path / "whole", samples_per_shard=1, split=recipe.split.model_dump())
        shutil.rmtree(out)


def test_a_failed_shard_is_exit_code_1_and_one_line(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=6)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=1, split={"validation": 0, "test": 0})
    (tmp_path / "out/train-000002.tar").mkdir(parents=True)
    line = command(recipe, tmp_path, "--workers", "2", "--retries", "0")
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    errors = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1
    assert "train-000002" in errors[0]
    assert "Traceback" not in done.stderr
    (tmp_path / "out/train-000002.tar").rmdir()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 shard written, 11 kept from before, 0 failed" in done.stdout
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "nothing to do" in done.stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_recipe_does_not_fit_is_refused_from_workers_too(tmp_path: Path, workers: int):
    """Embeddings of another size, in a file that was written anew after it was looked at: no failed shard."""
    draw(tmp_path / "face.png", 1, size=(16, 16))
    with h5py.File(tmp_path / "birds.h5", "w") as file:
        for number in range(12):
            group = file.create_group(f"train/image{number:02d}_0")
            group["name"], group["class"], group["txt"] = f"image{number:02d}", f"class {number}", "a bird"
            group["img"] = np.void((tmp_path / "face.png").read_bytes())
            group["embeddings"] = np.ones(12, np.float32)
    fields = {"layout": "hdf5", "captions": None, "speech": None, "faces": str(tmp_path / "birds.h5")}
    recipe = Corpus(tmp_path / "none", people=0).recipe(
        tmp_path / "out", **fields, split={"validation": 0, "test": 0}, samples_per_shard=2
    )
    planned = plan(recipe)
    embedder = Embedder.of_corpus(planned.splits["train"])
    todo = list(tasks(planned.splits, 2, dict.fromkeys(SPLITS, 0)))
    with h5py.File(tmp_path / "birds.h5", "r+") as file:
        del file["train/image07_0/embeddings"]
        file["train/image07_0/embeddings"] = np.ones(8, np.float32)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"have 12 values, those of image07 8; all must have the same number"):
        list(engine.run("process", todo, Job(recipe, embedder, "build"), workers, 2, lambda images: None))


def test_a_fault_says_what_it_means():
    assert fault(ValueError("a\nb")).refusal
    assert fault(ValueError("a\nb")).reason == "a b"
    assert fault(OSError(28, "No space left on device", "x.tar")).reason == "x.tar: No space left on device"
    assert fault(OSError(5, "Input/output error")).again
    assert fault(MemoryError()).again
    assert fault(KeyError("x")) == Fault("KeyError: 'x'", refusal=False, again=False)
    assert fault(Unreachable("/faces/x.png: Stale file handle")) == Fault("/faces/x.png: Stale file handle", again=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_picture_that_is_gone_for_a_while_is_waited_for(tmp_path: Path, workers: int):
    """Listed, and a link to nothing when its shard is made; never a rejected image."""
    corpus = Corpus(tmp_path / "corpus", people=6)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=2, split={"validation": 0, "test": 0})
    todo = list(tasks(plan(recipe).splits, 2, dict.fromkeys(SPLITS, 0)))
    there = corpus.faces / todo[1].entries[0].path
    there.rename(tmp_path / "away")
    there.symlink_to("nowhere")
    (tmp_path / "out").mkdir()
    events = list(engine.run("process", todo, Job(recipe, None, "build"), workers, 1, lambda images: None))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert (failed.name, failed.tries) == ("train-000001", 2)
    assert str(there) in failed.reason and len(events) == 6
    assert not (tmp_path / "out/.build/train-000001.json").exists()
    there.unlink()
    (tmp_path / "away").rename(there)
    list(engine.run("process", todo[1:2], Job(recipe, None, "build"), workers, 0, lambda images: None))
    assert files(tmp_path / "out").keys() >= {"train-000001.tar"}
    assert b"rejected" not in (tmp_path / "out/.build/train-000001.json").read_bytes()


@dataclass(frozen=True)
class Suicide:
    """A job, its maker and its only task: the kernel kills who does it."""

    name: str = "train-000000"
    num_images: int = 3

    def open(self) -> "Suicide":
        return self

    def make(self, task: object, advance: Callable[[], None]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_shard_that_is_left_alone_has_a_process_of_its_own():
    """Whose death is told; the command's would not be."""
    told: list[int] = []
    (failed,) = engine.run("process", [Suicide()], Suicide(), 2, 1, told.append)
    assert str(failed) == (
        "train-000000: its process was killed by SIGKILL, most likely for want of memory: use fewer --workers (2 tries)"
    )
    assert sum(told) == 3


def test_what_a_killed_worker_has_staged_is_cleared(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "staged"))
    (tmp_path / "staged").mkdir()
    left = tmp_path / "staged" / f"t2f-dist-{os.getuid()}" / "work-0"
    left.mkdir(parents=True)
    left.parent.chmod(0o700)
    (left / "train-000000.tar").write_bytes(b"half")
    (left.parent / "work-0.lock").touch()
    corpus = Corpus(tmp_path / "corpus", people=4)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=2).model_copy(update={"out": f"{bucket}/shards"})
    make(recipe, Manner(workers=2, progress=False))
    assert list(left.parent.iterdir()) == []
