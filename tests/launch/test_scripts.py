"""Every script in launch/, also those inside other files, is read by bash, shellcheck or hadolint."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
BIN = Path(sys.executable).parent
SCRIPTS = sorted([*LAUNCH.rglob("*.sbatch"), *LAUNCH.rglob("*.sh"), ROOT / ".ci" / "run"])
JOBS = sorted(LAUNCH.glob("slurm/*.sbatch"))


def embedded() -> dict[str, str]:
    """Scripts that others hand to `bash -c`, by where they stand."""
    found = {}
    for path in SCRIPTS:
        for i, script in enumerate(re.findall(r"bash -c '([^']*)'", path.read_text())):
            found[f"{path.name}-{i}"] = script
    for path in sorted(LAUNCH.glob("k8s/*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            for container in document["spec"].get("template", {}).get("spec", {}).get("containers", []):
                if container["command"][:2] == ["bash", "-c"]:
                    found[path.name] = container["command"][2]
    return found


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{BIN}:/usr/local/bin:/usr/bin:/bin")
    assert found is not None, f"{name} is not installed: make install"
    return found


def _passes(line: list[str], text: str | None = None) -> None:
    done = subprocess.run(line, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_scripts_of_each_kind():
    assert {path.name for path in SCRIPTS} >= {"train.sbatch", "shard.sbatch", "pod.sh", "run"}
    assert set(embedded()) >= {"train.sbatch-0", "shard.yaml"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_and_shellcheck_read_it(path):
    _passes(["bash", "-n", str(path)])
    _passes([_program("shellcheck"), str(path)])


@pytest.mark.parametrize("name", sorted(embedded()))
def test_bash_and_shellcheck_read_what_is_inside_others(name):
    _passes(["bash", "-n"], embedded()[name])
    _passes([_program("shellcheck"), "--shell=bash", "-"], embedded()[name])


def test_what_must_pass_finds_what_must_not():
    with pytest.raises(AssertionError, match="SC2086"):
        _passes([_program("shellcheck"), "--shell=bash", "-"], "rm $1\n")
    with pytest.raises(AssertionError, match="DL3007"):
        _passes([_program("hadolint"), "-"], "FROM python:latest\n")


def test_hadolint_reads_the_dockerfile():
    _passes([_program("hadolint"), str(LAUNCH / "Dockerfile")])


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_each_line_for_slurm_says_why_it_is_there(path):
    lines = path.read_text().splitlines()
    numbers = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    options = {lines[i].split()[1].partition("=")[0] for i in numbers}
    assert options >= {"--requeue", "--open-mode", "--signal", "--nodes", "--output"}
    for i in numbers:
        above = next(line for line in reversed(lines[:i]) if not line.startswith("#SBATCH"))
        assert re.match(r"# \w", above), lines[i]
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(numbers) < first_command, "Slurm reads no further than the first command"
