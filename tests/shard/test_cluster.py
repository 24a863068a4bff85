"""A Ray cluster writes what processes write, and says what it could not; in a network namespace of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2f_dist.shard import cluster
from t2f_dist.shard.build import make
from t2f_dist.shard.corpus import plan
from t2f_dist.shard.ledger import Ledger
from t2f_dist.shard.manifest import SPLITS
from t2f_dist.shard.manner import Manner
from t2f_dist.shard.task import Job, tasks
from tests.shard.raw import Corpus
from tests.shard.test_build import files
from tests.shard.test_restart import command, finished, records

NAMESPACE = ["unshare", "--net", "--", sys.executable, "-m", "tests.shard.loopback"]


def skip_without_namespaces() -> None:
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace may be made here, and Ray looks for its address outside")


@pytest.mark.slow
def test_ray_writes_the_same_bytes(tmp_path: Path):
    """In a network namespace with nothing but a loopback."""
    skip_without_namespaces()
    corpus = Corpus(tmp_path / "corpus", people=10)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=2)
    line = [*NAMESPACE, *command(recipe, tmp_path, "--workers", "2", "--engine", "ray")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    whole = finished(corpus, tmp_path / "whole", samples_per_shard=2)
    assert files(tmp_path / "out") == whole
    assert "duplicates: 0 images" in done.stdout


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    corpus = Corpus(tmp_path / "corpus", people=2)
    recipe = corpus.recipe(tmp_path / "out", split={"validation": 0, "test": 0})
    with pytest.raises(OSError, match=f"no Ray cluster answers at {address}") as error:
        make(recipe, Manner(engine="ray", progress=False))
    assert "\n" not in str(error.value)


HEAD = """
import os, subprocess, sys, ray
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
quiet = {"logging_level": "ERROR", "object_store_memory": 200 << 20, "include_dashboard": False}
found = ray.init(address="local", num_cpus=2, _node_ip_address="127.0.0.1", **quiet)
environment = os.environ | {"RAY_ADDRESS": found["gcs_address"]}
sys.exit(subprocess.run(sys.argv[1:], env=environment).returncode)
"""


@pytest.mark.slow
def test_a_cluster_that_is_there_already_is_used(tmp_path: Path):
    skip_without_namespaces()
    corpus = Corpus(tmp_path / "corpus", people=6)
    recipe = corpus.recipe(tmp_path / "out", samples_per_shard=2)
    line = [*NAMESPACE, sys.executable, "-c", HEAD, *command(recipe, tmp_path, "--engine", "ray")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "out") == finished(corpus, tmp_path / "whole", samples_per_shard=2)


def test_a_node_that_sees_another_world_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a worker of a cluster does, in this process: there is no folder, no plan, another plan, the plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "_opened", None)
    corpus = Corpus(tmp_path / "corpus", people=2)
    fields = {"faces": "corpus/faces", "captions": "corpus/captions.jsonl", "speech": "corpus/speech.csv"}
    recipe = corpus.recipe(Path("out"), **fields, split={"validation": 0, "test": 0})
    (task,) = tasks(plan(recipe).splits, 8, dict.fromkeys(SPLITS, 0))
    job = Job(recipe, None, "of this")
    (tmp_path / "out/.build").mkdir(parents=True)
    assert job.is_relative and not Job(corpus.recipe(tmp_path), None, "").is_relative

    def refused(folder: Path) -> str:
        with pytest.raises(OSError, match=f"the node {socket.gethostname()} does not see") as caught:
            cluster._make(task, job, str(folder))
        assert not list(tmp_path.rglob("*.tar")) and "\n" not in str(caught.value)
        return str(caught.value)

    assert f"{tmp_path / 'none'}: No such file" in refused(tmp_path / "none")
    assert "no build in out" in refused(tmp_path)
    for fingerprint, said in (("of another", "another build in out"), ("of this", "")):
        monkeypatch.setattr(Ledger, "plan", lambda self, found=fingerprint: {"fingerprint": found})
        if said:
            assert said in refused(tmp_path)
        else:
            cluster._make(task, job, str(tmp_path))
    assert (tmp_path / "out/train-000000.tar").is_file()


@pytest.mark.slow
def test_ray_reports_what_fails_and_goes_on(tmp_path: Path):
    skip_without_namespaces()
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
    skip_without_namespaces()
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
