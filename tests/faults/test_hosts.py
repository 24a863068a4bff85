"""Several hosts: the README's command for several nodes on each, a network that is cut, and hosts that die."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from t2f_dist.config.schema import Config
from t2f_dist.training.run.status import EXIT_HUNG
from tests.end_to_end.launches import (
    INJECTED,
    Fault,
    assert_same_end,
    children_of,
    finish,
    log_of,
    repeated_images,
    status_of,
    steps_of,
    struck,
    wait_for,
)
from tests.faults.conftest import MID_FADE
from tests.faults.record import record
from tests.hosts import Host, hosts
from tests.training.small import config as small

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 15  # train.timeout_seconds where hosts are lost
# The watchdog comes to its verdict after 1.3 times the bound, and the launcher waits 30 s at most for a rank to leave.
BOUND_SECONDS = 1.5 * PATIENCE + 60
EVEN = ("stages.0.stable_images=192", "stages.1.fade_images=384", "stages.1.stable_images=192")  # in 12 and in 16
Anew = Callable[[str], tuple[Config, Config]]


def _line(config: Config, number: int, num_hosts: int, ranks: int, master: str, launcher: Sequence[str]) -> list[str]:
    """The README's command for several nodes, as it stands there."""
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch/multi_node.yaml")]
    line += ["--num_machines", str(num_hosts), "--num_processes", str(ranks), "--machine_rank", str(number)]
    line += ["--main_process_ip", master, "--main_process_port", "29500", *launcher]
    return [*line, "-m", INJECTED, "--config", str(Path(config.run).with_suffix(".yaml"))]


@contextmanager
def launched(
    config: Config, on: Sequence[Host], ranks: int, *launcher: str, fault: Fault | None = None, by_address: bool = False
) -> Iterator[list[subprocess.Popen[str]]]:
    """The command on each host; the output of all is in RUN.log. All that runs there is gone with the block."""
    run = Path(config.run)
    run.parent.mkdir(parents=True, exist_ok=True)
    run.with_suffix(".yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_SOCKET_IFNAME")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1,-1"}
    faults = [{"marker": str(run.with_suffix(".fault")), **fault}] if fault else []
    environment |= {"T2F_FAULT": json.dumps(faults), "T2F_TRACE": str(run.with_suffix(".trace"))}
    master = on[0].address if by_address else on[0].name
    try:
        yield [
            host.start(_line(config, number, len(on), ranks, master, launcher), run.with_suffix(".log"), environment)
            for number, host in enumerate(on)
        ]
    finally:
        for host in on:
            host.kill()


def _all_end(processes: Sequence[subprocess.Popen[str]], timeout: float = 300) -> list[int]:
    deadline = time.monotonic() + timeout
    return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]


def _finished(config: Config, processes: Sequence[subprocess.Popen[str]]) -> None:
    assert _all_end(processes) == [0] * len(processes), log_of(config)
    assert status_of(config)["outcome"] == "finished"
    assert f"{len(processes)} hosts" in log_of(config)


def _until(config: Config, images: int, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: any(seen >= images for _, seen in steps_of(config)), process, f"{images} images", timeout=240)


def _hasty(config: Config) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update={"timeout_seconds": PATIENCE})})


def test_two_hosts_whose_network_is_away_for_a_while_train_what_one_host_trains(little):
    config, quiet = little
    with hosts(2) as on, launched(config, on, 2) as processes:
        _until(config, 16, processes[0])
        on[1].cut()
        away, before = time.time(), len(steps_of(config))
        time.sleep(1.5)
        stood = len(steps_of(config)) - before
        on[1].heal()
        _finished(config, processes)
    assert stood <= 2, "nothing is trained without the other"
    assert_same_end(config, quiet)
    after = min(when for when, _ in steps_of(config) if when > away + 1.5)
    record("network away for 1.5 s", "bit-identical", repeated_images(config), after - away)


@pytest.mark.slow
@pytest.mark.parametrize("by_address", [False, True])
def test_two_hosts_of_two_ranks_are_one_host_of_four(portrait_shards: Path, tmp_path: Path, by_address: bool):
    quiet = small("house", portrait_shards, tmp_path / "quiet", *EVEN, batch_size=16)
    config = quiet.model_copy(update={"run": str(tmp_path / "run")})
    assert finish(quiet, 4, timeout=400) == 0, log_of(quiet)
    with hosts(2) as on, launched(config, on, 4, by_address=by_address) as processes:
        _finished(config, processes)
    assert_same_end(config, quiet)


@pytest.mark.slow
def test_three_hosts_are_one_host_of_three_ranks(portrait_shards: Path, tmp_path: Path):
    quiet = small("house", portrait_shards, tmp_path / "quiet", *EVEN, batch_size=12)
    config = quiet.model_copy(update={"run": str(tmp_path / "run")})
    assert finish(quiet, 3, timeout=400) == 0, log_of(quiet)
    with hosts(3) as on, launched(config, on, 3) as processes:
        _finished(config, processes)
    assert_same_end(config, quiet)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "drop"])
def test_a_network_that_is_lost_ends_both_sides_and_the_same_command_goes_on(anew: Anew, how: str):
    config, quiet = anew("house")
    with hosts(2) as on:
        with launched(_hasty(config), on, 2) as processes:
            _until(config, MID_FADE, processes[0])
            (on[1].cut if how == "cut" else on[1].drop)()
            when = time.monotonic()
            codes = _all_end(processes, BOUND_SECONDS)
            seconds = time.monotonic() - when
            assert 0 not in codes, log_of(config)
            assert len(re.findall(rf"exitcode *: {EXIT_HUNG} ", log_of(config))) == 2, log_of(config)
            assert [host.processes() for host in on] == [[], []]
        assert (status_of(config)["outcome"], status_of(config)["retry"]) == ("failed", True)
        (on[1].heal if how == "cut" else on[1].undrop)()
        with launched(config, on, 2) as processes:
            _finished(config, processes)
    assert_same_end(config, quiet)
    lost = repeated_images(config)
    assert lost <= config.checkpoint.every_images + 8
    record(f"network lost ({how})", "both sides end with exit code 4, then bit-identical", lost, seconds)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_host_that_dies_ends_the_other_and_the_same_command_goes_on(anew: Anew, number: int):
    config, quiet = anew("house")
    with hosts(2) as on:
        with launched(_hasty(config), on, 2) as processes:
            _until(config, MID_FADE, processes[0])
            on[number].kill()
            lost = time.monotonic()
            assert 0 not in _all_end(processes, BOUND_SECONDS), log_of(config)
            seconds = time.monotonic() - lost
            assert [host.processes() for host in on] == [[], []]
        with launched(config, on, 2) as processes:
            _finished(config, processes)
    assert_same_end(config, quiet)
    record(f"host {number} of 2 dies", "bit-identical", repeated_images(config), seconds)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["c10d", "static"])
@pytest.mark.parametrize("rank", [0, 1])
def test_over_two_hosts_a_killed_rank_comes_back_in_place(anew: Anew, backend: str, rank: int):
    config, quiet = anew("house")
    # The static rendezvous takes the address from the other option.
    launcher = ["--max_restarts", "2", "--rdzv_backend", backend, *["--same_network"] * (backend == "static")]
    fault: Fault = {"kind": "kill", "rank": rank, "at": "t2f_dist.training.side:Side.step", "images": MID_FADE}
    with hosts(2) as on, launched(config, on, 2, *launcher, fault=fault) as processes:
        _finished(config, processes)
    assert_same_end(config, quiet)
    when = struck(config, rank)
    assert when is not None
    after = min(time for time, images in steps_of(config) if time > when["time"] and images <= MID_FADE)
    name = f"SIGKILL, rank {rank}, two hosts, restart in place, {backend}"
    record(name, "bit-identical", repeated_images(config), after - when["time"])


@pytest.mark.slow
def test_one_signal_on_one_host_stops_both_in_good_order(anew: Anew):
    config, quiet = anew("house")
    with hosts(2) as on:
        with launched(config, on, 2) as processes:
            _until(config, MID_FADE, processes[0])
            (rank,) = children_of(processes[1].pid)
            os.kill(rank, signal.SIGUSR1)
            assert 0 not in _all_end(processes), log_of(config)
        assert status_of(config)["outcome"] == "preempted"
        with launched(config, on, 2) as processes:
            _finished(config, processes)
    assert repeated_images(config) == 0
    assert_same_end(config, quiet)
