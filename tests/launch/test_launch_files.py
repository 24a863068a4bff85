"""Every launch file is read by accelerate itself and really starts ranks that see each other."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch").glob("*.yaml"))
PROGRAM = ROOT / "tests" / "launch" / "rank_facts.py"

# A user's own default, as `accelerate config` writes it, with everything that could bend a launch.
HOSTILE_DEFAULT = """
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
use_cpu: true
num_machines: 3
num_processes: 5
machine_rank: 2
main_process_ip: 203.0.113.9
mixed_precision: fp16
dynamo_config: {dynamo_backend: INDUCTOR}
"""


@contextmanager
def launched(
    tmp_path: Path, file: str, *options: str, program: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """`accelerate launch` of the program, in a process group of its own that is gone when the block is left."""
    home = tmp_path / "hf"
    (home / "accelerate").mkdir(parents=True, exist_ok=True)
    (home / "accelerate" / "default_config.yaml").write_text(HOSTILE_DEFAULT)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | {"HF_HOME": str(home)}
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / file)]
    line += [*options, str(PROGRAM), str(tmp_path), *program]
    process = subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # the usual case: everything it started has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def facts_of(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank-*.json"))]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_accelerate_reads_it(path: Path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == "MULTI_GPU"
    assert not config.use_cpu
    assert config.mixed_precision == "no", "precision changes the weights: it belongs in configs/"
    assert config.num_processes % config.num_machines == 0
    if config.num_machines > 1:
        assert not config.same_network
    else:
        assert config.main_process_port == 0


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_what_it_says_is_what_the_launcher_does(path: Path):
    """accelerate overlooks what a file says where the command line has a default of its own, such as rdzv_backend."""
    args, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(path), "program.py"])
    )
    told = yaml.safe_load(path.read_text())
    same = {"num_machines", "num_processes", "main_process_port", "rdzv_backend", "same_network", "use_cpu", "debug"}
    assert {key: getattr(args, key) for key in same & told.keys()} == {key: told[key] for key in same & told.keys()}


def test_the_readme_names_every_file_and_no_other():
    text = (ROOT / "launch" / "README.md").read_text()
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "launch").rglob("*") if path.is_file()}
    here = {path for path in here if "__pycache__" not in path} - {"launch/README.md"}
    assert set(re.findall(r"launch/[\w/]+(?:\.\w+)*", text)) == here


def test_cpu_starts_two_ranks_on_the_cpu_whatever_the_user_has_as_default(tmp_path: Path):
    with launched(tmp_path, "cpu.yaml") as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    facts = facts_of(tmp_path)
    assert [fact.pop("rank") for fact in facts] == [0, 1]
    seen = {
        "num_processes": 2,
        "world_size": 2,
        "device": "cpu",
        "backend": "gloo",
        "total": 3.0,
        "threads": 1,
        "gpus_seen": 0,
        "mixed_precision": "no",
        "dynamo": "NO",
    }
    assert facts == [seen, seen]


def test_one_gpu_is_a_single_rank_that_gets_the_launchers_sigterm(tmp_path: Path):
    with launched(tmp_path, "one_gpu.yaml", program=("wait",)) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "rank-0.json").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output  # although the rank left with 0: hence RUN/status.json
    assert (tmp_path / "stopped-0").exists(), output
    (fact,) = facts_of(tmp_path)
    assert (fact["num_processes"], fact["total"]) == (1, 1.0)
    assert fact["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the ranks would take the GPUs, of which there may be too few")
def test_several_nodes_find_each_other(tmp_path: Path):
    options = ("--num_machines", "2", "--num_processes", "4", "--main_process_ip", "127.0.0.1")
    options += ("--main_process_port", str(free_port()))
    with (
        launched(tmp_path, "multi_node.yaml", *options, "--machine_rank", "0") as first,
        launched(tmp_path, "multi_node.yaml", *options, "--machine_rank", "1") as second,
    ):
        outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert [(fact["rank"], fact["num_processes"], fact["total"]) for fact in facts_of(tmp_path)] == [
        (rank, 4, 15.0) for rank in range(4)
    ]


def test_several_nodes_without_an_address_say_what_to_give(tmp_path: Path):
    with launched(tmp_path, "multi_node.yaml") as process:
        assert process.stdout is not None
        line = process.stdout.readline()  # the launcher keeps trying, and says this each time
    assert "give-main_process_ip.invalid" in line
