"""Who makes the shards plays no part; a process that dies, a full disk or a lost worker of a cluster cost nothing."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.shard import engine
from t2f_dist.shard.build import ShardsFailed, make
from t2f_dist.shard.corpus import plan
from t2f_dist.shard.embed import Embedder
from t2f_dist.shard.engine import fault
from t2f_dist.shard.manifest import SPLITS
from t2f_dist.shard.manner import Manner
from t2f_dist.shard.task import Job, tasks
from tests.shard.raw import Corpus, draw
from tests.shard.test_build import files
from tests.shard.test_restart import command, finished, records


class Killer(threading.Thread):
    """Kills workers of the pool that the main thread runs, whenever there are some and its condition holds."""

    def __init__(self, times: int):
        super().__init__(daemon=True)
        self.times, self.stop = times, False
        self.main = threading.main_thread().native_id

    def run(self) -> None:
        while self.times and not self.stop:
            time.sleep(0.05)
            for child in Path(f"/proc/self/task/{self.main}/children").read_text().split():
                try:
                    spawned = b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if spawned and self.times:
                    self.times -= 1
                    os.kill(int(child), signal.SIGKILL)


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
    h5py = pytest.importorskip("h5py")
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
    assert fault(KeyError("x")) == fault(KeyError("x"))
    assert not fault(KeyError("x")).again
    assert fault(KeyError("x")).reason == "KeyError: 'x'"


NAMESPACE = ["unshare", "--net", "--", sys.executable, "-m", "tests.shard.loopback"]


def ray_there() -> None:
    pytest.importorskip("ray")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace may be made here, and Ray looks for its address outside")


@pytest.mark.slow
def test_ray_writes_the_same_bytes(tmp_path: Path):
    """In a network namespace with nothing but a loopback."""
    ray_there()
    corpus = Corpus(tmp_path / "corpus", people=10)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=2)
    line = [*NAMESPACE, *command(recipe, tmp_path, "--workers", "2", "--engine", "ray")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    whole = finished(corpus, tmp_path / "whole", samples_per_shard=2)
    assert files(tmp_path / "out") == whole
    assert "duplicates: 0 images" in done.stdout


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    corpus = Corpus(tmp_path / "corpus", people=2)
    recipe = corpus.recipe(tmp_path / "out", split={"validation": 0, "test": 0})
    with pytest.raises(OSError, match=f"no Ray cluster answers at {address}") as error:
        make(recipe, Manner(engine="ray", progress=False))
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_ray_reports_what_fails_and_goes_on(tmp_path: Path):
    ray_there()
    corpus = Corpus(tmp_path / "corpus", people=6)
    nobody = {"validation": 0, "test": 0}
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=2, split=nobody)
    (tmp_path / "out/train-000002.tar").mkdir(parents=True)
    line = [*NAMESPACE, *command(recipe, tmp_path, "--workers", "2", "--engine", "ray", "--retries", "1")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "1 of 6 shards failed, 5 written" in done.stderr
    assert "train-000002" in done.stderr
    assert "(2 tries)" in done.stderr
    (tmp_path / "out/train-000002.tar").rmdir()
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "1 shard written, 5 kept from before" in done.stdout
    assert files(tmp_path / "out") == finished(corpus, tmp_path / "whole", samples_per_shard=2, split=nobody)


@pytest.mark.slow
def test_a_ray_worker_that_is_killed_is_tried_again(tmp_path: Path):
    ray_there()
    corpus = Corpus(tmp_path / "corpus", people=60)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=1)
    line = [*NAMESPACE, *command(recipe, tmp_path, "--workers", "2", "--engine", "ray")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while len(records(tmp_path / "out")) < 5 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        # Not its agents, with which its whole node ends.
        workers = [pid for pid in descendants(process.pid) if title(pid).strip() in ("ray::_make", "ray::IDLE")]
        killed = workers[:1]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        out, error = process.communicate(timeout=300)
    assert killed
    assert process.returncode == 0, error
    assert "120 shards written" in out
    assert files(tmp_path / "out") == finished(corpus, tmp_path / "whole", samples_per_shard=1)


def descendants(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
