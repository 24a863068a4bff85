"""Real training launches: `accelerate launch`, in a process group of its own that is gone when the block is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors.torch
import torch
import yaml

from t2f_dist.config.schema import Config

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def launch(config: Config, num_processes: int = 2, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Training on so many CPU ranks; its output is in RUN.log beside the run's folder."""
    run = Path(config.run)
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu.yaml")]
    line += ["--num_processes", str(num_processes), "-m", "t2f_dist.train", "--config", str(path), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(run.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(
            line, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    children: list[int] = []
    try:
        yield process
    finally:
        children = ranks_of(process)
        for victim in (process.pid, *children):
            with suppress(ProcessLookupError):  # the usual case: everything it started has ended
                os.killpg(victim, signal.SIGKILL)
        process.wait()


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process numbers of the launcher's ranks, which lead process groups of their own."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def finish(config: Config, num_processes: int = 2, timeout: float = 120) -> int:
    """Launch and wait; the launcher's exit code."""
    with launch(config, num_processes) as process:
        return process.wait(timeout)


def wait_for(condition, process: subprocess.Popen[str], what: str, timeout: float = 90) -> None:
    """Until `condition()` holds, while the launch lives."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"the launch ended before {what}"
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.02)


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    """Everything in the newest checkpoint: networks, moving average, moments."""
    newest = max((Path(run) / "checkpoints").glob("images-*"))
    return {
        f"{name}/{key}": tensor
        for name in ("networks", "optimizers")
        for key, tensor in safetensors.torch.load_file(newest / f"{name}.safetensors").items()
    }


def log_of(config: Config) -> str:
    return Path(config.run).with_suffix(".log").read_text()
