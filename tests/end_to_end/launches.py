"""Real training launches: `accelerate launch`, in a process group of its own that is gone when the block is left."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml

from t2f_dist.config.schema import Config
from t2f_dist.training.run import status
from tests.training.short_run import checkpoints_in

ROOT = Path(__file__).resolve().parents[2]


GONE_SECONDS = 60.0  # a loader process looks for its rank every five seconds
INJECTED = "tests.faults.injected"
Fault = dict[str, Any]  # fields of tests.faults.injected.Fault


@contextmanager
def launch(
    config: Config,
    num_processes: int = 2,
    *options: str,
    module: str = "t2f_dist.train",
    fault: Fault | list[Fault] | None = None,
    environment: Mapping[str, str] = os.environ,
    launcher: Sequence[str] = (),
) -> Iterator[subprocess.Popen[str]]:
    """Training on so many CPU ranks; its output is in RUN.log beside the run's folder.

    With a fault, the module is tests.faults.injected, and `struck` tells when it came. With that module, `steps_of`
    tells the steps, also without a fault. `launcher`: more of its own options.
    """
    run = Path(config.run)
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    module = INJECTED if fault else module
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu.yaml")]
    line += ["--num_processes", str(num_processes), *launcher, "-m", module, "--config", str(path), *options]
    faults = [] if fault is None else fault if isinstance(fault, list) else [fault]
    marked = [{"marker": f"{run.with_suffix('.fault')}{i or ''}", **each} for i, each in enumerate(faults)]
    told = {"T2F_FAULT": json.dumps(marked), "T2F_TRACE": str(run.with_suffix(".trace"))}
    environment = {**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | (
        told if module == INJECTED else {}
    )
    with open(run.with_suffix(".log"), "a") as log:
        process = subprocess.Popen(
            line, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # the usual case: it has ended
            os.killpg(process.pid, signal.SIGKILL)
        for victim in processes_of(config):  # also what the launcher would have ended, and what lost its parent
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        process.wait()


def processes_of(config: Config) -> list[int]:
    """Those that have the run or its configuration on their command line: launchers, ranks, and what ranks started."""
    names = {os.fsencode(path) for path in (config.run, Path(config.run).with_suffix(".yaml"))}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if names & set((folder / "cmdline").read_bytes().split(b"\0")):
                found.append(int(folder.name))
    return sorted(found)


def children_of(pid: int) -> list[int]:
    """Process numbers, in the order of their start."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return sorted(found)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process numbers of the launcher's ranks, which lead process groups of their own."""
    return children_of(process.pid)


def finish(config: Config, num_processes: int = 2, timeout: float = 600, alone: bool = True, **how: Any) -> int:
    """Launch and wait; the launcher's exit code. `alone`: nothing that it started may outlive it for long."""
    with launch(config, num_processes, **how) as process:
        code = process.wait(timeout)
        until = time.monotonic() + GONE_SECONDS
        while alone and (left := processes_of(config)):
            assert time.monotonic() < until, f"processes {left} outlive their launcher"
            time.sleep(0.05)
        return code


def until_finished(config: Config, num_processes: int = 2, most: int = 5, **how: Any) -> int:
    """Launch again and again until the run's outcome is finished; how many launches it took."""
    for number in range(1, most + 1):
        code = finish(config, num_processes, **how)
        if status_of(config).get("outcome") == "finished":
            assert code == 0, log_of(config)
            return number
        assert code != 0, log_of(config)
    raise AssertionError(f"not finished after {most} launches: {status_of(config)}; {log_of(config)[-2000:]}")


def status_of(config: Config) -> dict[str, Any]:
    """status.json; empty before it is written."""
    return status.read(Path(config.run))


def struck(config: Config, rank: int, number: int = 0) -> dict[str, float] | None:
    """time and images_seen of when a fault of `launch` last met a rank; None for not yet."""
    path = Path(f"{Path(config.run).with_suffix('.fault')}{number or ''}-{rank}")
    return json.loads(path.read_text().splitlines()[-1]) if path.exists() else None


def steps_of(config: Config, rank: int = 0) -> list[tuple[float, int]]:
    """(time, images seen) at the start of each step of a rank, of all launches of tests.faults.injected."""
    path = Path(config.run).with_suffix(".trace")
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(float(when), int(images)) for of, when, images in lines if int(of) == rank]


def repeated_images(config: Config) -> int:
    """The most that were trained before a launch and again after it, by what `steps_of` tells."""
    images = [seen for _, seen in steps_of(config)]
    return max((0, *(before - after for before, after in itertools.pairwise(images))))


def wait_for(condition, process: subprocess.Popen[str], what: str, timeout: float = 300) -> None:
    """Until `condition()` holds, while the launch lives."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"the launch ended before {what}"
        assert time.monotonic() < deadline, f"no {what} within {timeout} s"
        time.sleep(0.02)


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    """Everything in the newest checkpoint: networks, moving average, moments."""
    newest = checkpoints_in(Path(run) / "checkpoints")[0]
    return {
        f"{name}/{key}": tensor
        for name in ("networks", "optimizers")
        for key, tensor in safetensors.torch.load_file(newest / f"{name}.safetensors").items()
    }


def assert_same_weights(config: Config, quiet: Config) -> None:
    """The newest checkpoints are the same, bit for bit."""
    ours, theirs = weights(config.run), weights(quiet.run)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def assert_same_end(config: Config, quiet: Config) -> None:
    """Both ended with the same weights and moments, bit for bit, and wrote the same lines of metrics but for times.

    A line in whose middle a launch began is a mean over fewer steps.
    """
    assert_same_weights(config, quiet)
    lines, wanted = _told(config), _told(quiet)
    assert list(lines) == list(wanted)
    resumed = [int(place.replace(",", "")) for place in re.findall(r"resuming at ([\d,]+) images", log_of(config))]
    broken = {next((images for images in lines if images > place), 0) for place in resumed}
    assert [images for images in wanted if lines[images] != wanted[images] and images not in broken] == []


def _told(config: Config) -> dict[int, dict[str, Any]]:
    """What lines of metrics tell of training, by images."""
    timed = ("speed/", "ranks/", "checkpoint/")
    return {
        line["images"]: {key: value for key, value in line.items() if not key.startswith(timed)}
        for line in metrics_of(config)
    }


def metrics_of(config: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config.run) / "metrics.jsonl").read_text().splitlines()]


def log_of(config: Config) -> str:
    return Path(config.run).with_suffix(".log").read_text()
