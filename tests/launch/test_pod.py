"""Pods of launch/k8s/train.yaml, as far as they can be had here: their command, as processes of this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from t2f_dist.training.run import status
from tests.end_to_end.launches import weights
from tests.launch.test_kubernetes import container_of
from tests.launch.test_outcome import outcome

ROOT = Path(__file__).resolve().parents[2]
SHORT = {
    "stages": "[{resolution: 4, stable_images: 3840, batch_size: 48}]",
    "generator.channels": "[16]",
    "discriminator.channels": "[16]",
    "checkpoint.every_images": "480",
    "log.every_images": "480",
    "log.held_out_images": "8",
    "wandb.mode": "disabled",
}


def arguments(run: Path, settings: dict[str, str], port: int, pods: int) -> list[str]:
    """Those of the file, with the place, the numbers and the training of this test."""
    line = container_of("train.yaml")["args"]
    launcher = line[: line.index("t2f_dist.train") + 1]
    ours = {"num_machines": pods, "num_processes": pods, "main_process_ip": "127.0.0.1", "main_process_port": port}
    ours |= {"max_restarts": 0}
    launcher = [f"--{name}={ours[name]}" if (name := item[2:].partition("=")[0]) in ours else item for item in launcher]
    sets = [item for pair in settings.items() for item in ("--set", "=".join(pair))]
    return [*launcher, "--config", "configs/demo.yaml", "--run", str(run), *sets]


@contextmanager
def pod(line: list[str], index: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command of the file as pod `index`; whatever it started is gone when the block is left."""
    environment = os.environ | {
        "JOB_COMPLETION_INDEX": str(index),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "T2F_LAUNCH": "Kubernetes job 4f1c",
        "CUDA_VISIBLE_DEVICES": "-1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with open(log, "a") as file:
        process = subprocess.Popen(
            [*container_of("train.yaml")["command"], *line],
            cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        for pid in (process.pid, *(_below(process.pid))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _below(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    children = [int(line) for line in found.stdout.split()]
    return [*children, *(grandchild for child in children for grandchild in _below(child))]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _saved(run: Path) -> int:
    return max((int(path.name[7:]) for path in (run / "checkpoints").glob("images-*")), default=0)


def test_a_configuration_that_cannot_be_read_is_to_be_mended(tmp_path):
    with pod(arguments(tmp_path / "run", {"stage": "3"}, 29500, 2), 0, tmp_path / "log") as process:
        assert process.wait(60) == outcome.MEND
    assert "did you mean" in (tmp_path / "log").read_text()


def test_a_pod_that_was_lost_at_the_end_of_a_run_waits_for_nobody(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    settings = SHORT | {"data.shards": str(tmp_path)}
    status.write(run, "finished", "all images shown", images_seen=3840)
    with pod(arguments(run, settings, _free_port(), 2), 1, tmp_path / "log") as process:
        assert process.wait(60) == outcome.FINISHED
    assert (tmp_path / "log").read_text() == "finished: nothing is left to train\n"


@pytest.mark.slow
def test_a_pod_that_waits_for_another_leaves_when_it_is_told_to(portrait_shards, tmp_path):
    """And nothing is to be mended, though nothing was written yet: the next pod waits again."""
    settings, log = SHORT | {"data.shards": str(portrait_shards)}, tmp_path / "log"
    with pod(arguments(tmp_path / "run", settings, _free_port(), 2), 0, log) as process:
        deadline = time.monotonic() + 60
        while len(_below(process.pid)) < 1 or time.monotonic() < deadline - 52:  # the launcher is up, and waits
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.05)
        process.terminate()
        assert process.wait(40) == outcome.KILLED, log.read_text()
    assert "nothing was written" in log.read_text()


@pytest.mark.slow
def test_one_pod_of_two_is_evicted_and_both_go_on(portrait_shards, tmp_path):
    settings = SHORT | {"data.shards": str(portrait_shards)}
    run, log = tmp_path / "run", tmp_path / "log"
    line = arguments(run, settings, _free_port(), 2)
    with pod(line, 0, log) as first, pod(line, 1, log) as second:
        deadline = time.monotonic() + 240
        while _saved(run) < 960:
            assert time.monotonic() < deadline and first.poll() is None, log.read_text()
            time.sleep(0.02)
        second.terminate()  # as the kubelet does: to the first process of the container alone
        assert [process.wait(120) for process in (first, second)] == [outcome.PREEMPTED] * 2, log.read_text()
    stopped = status.read(run)
    assert (stopped["outcome"], stopped["reason"]) == ("preempted", "SIGUSR1 received")
    assert 960 <= stopped["images_seen"] == _saved(run) < 3840
    for folder in (run, tmp_path / "quiet"):
        line = arguments(folder, settings, _free_port(), 2)
        with pod(line, 0, log) as first, pod(line, 1, log) as second:
            assert [process.wait(240) for process in (first, second)] == [outcome.FINISHED] * 2, log.read_text()
    ours, theirs = weights(run), weights(tmp_path / "quiet")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
