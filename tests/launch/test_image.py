"""The image: what its Dockerfile says, and its lines of installation in an environment of their own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from t2f_dist.training.run import status

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "launch" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def of(instruction: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{instruction} ")]


def sources() -> list[str]:
    """What is copied into the image, in order."""
    return [source for line in of("COPY") for source in line.split()[:-1]]


def test_the_base_is_pinned_and_nothing_runs_as_root():
    assert re.fullmatch(r"BASE=python:3\.\d+\.\d+-slim-\w+", of("ARG")[0])
    assert of("FROM") == ["${BASE}"]
    assert of("USER") == ["10001:10001"]
    instructions = [line.split(" ")[0] for line in LINES if line and not line.startswith("#")]
    assert instructions[-2:] == ["USER", "CMD"]
    assert "ADD" not in instructions and "ENTRYPOINT" not in instructions


def test_what_is_copied_is_there_and_nothing_else_is_sent():
    allowed = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in allowed
    assert sorted(sources()) == sorted(line[1:] for line in allowed if line.startswith("!"))
    for source in sources():
        assert (ROOT / source).exists(), source


def test_each_package_is_installed_by_its_hash():
    installs = [line for line in of("RUN") if "pip install" in line]
    assert len(installs) == 2
    assert all("--no-deps" in line and "--no-cache-dir" in line for line in installs)
    assert "--require-hashes" in installs[0] and "--no-build-isolation" in installs[1]


def test_its_user_has_a_name():
    user, group = of("USER")[0].split(":")
    (line,) = (line for line in of("RUN") if "useradd" in line)
    assert f"--uid {user}" in line and f"groupadd --gid {group}" in line


NAMELESS = """
import os, pwd
def nobody(number): raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = nobody
import getpass, sys
try:
    sys.exit(f"{getpass.getuser()} has a name")
except KeyError:
    from t2f_dist.train import main
main()
"""


def test_a_user_without_a_name_trains(portrait_shards, tmp_path):
    settings = {
        "stages": "[{resolution: 4, stable_images: 96, batch_size: 48}]",
        "generator.channels": "[16]",
        "discriminator.channels": "[16]",
        "log.held_out_images": "8",
        "data.num_workers": "0",
        "wandb.mode": "disabled",
        "data.shards": str(portrait_shards),
    }
    names = ("USER", "LOGNAME", "LNAME", "USERNAME", "TORCHINDUCTOR_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    line = [sys.executable, "-c", NAMELESS, "--config", "configs/demo.yaml", "--run", str(tmp_path / "run")]
    line += [item for pair in settings.items() for item in ("--set", "=".join(pair))]
    done = subprocess.run(
        line, cwd=ROOT, env=environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert status.read(tmp_path / "run")["images_seen"] == 96


@pytest.mark.slow
def test_its_lines_install_a_package_that_works(tmp_path):
    reachable = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(tmp_path / "probe"), "click==8.1.8"],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    if reachable.returncode:
        pytest.skip("no registry of packages can be reached")
    image = tmp_path / "image"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    environment = {
        "PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_") or "proxy" in name.lower()},
    }
    (tmp_path / "home").mkdir()
    for line in LINES:  # in their order, as the builder does
        instruction, _, rest = line.partition(" ")
        if instruction == "COPY":
            *wanted, place = rest.split()
            for source in wanted:
                target = image / place / ("" if len(wanted) == 1 and not place.endswith("/") else Path(source).name)
                target.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
                copy(ROOT / source, target)
        elif instruction == "RUN" and "useradd" not in rest:  # this machine's users stay as they are
            done = subprocess.run(
                ["sh", "-c", rest], cwd=image, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
    for command, says in (
        (["t2f-dist", "configs", "configs"], "t2f_lfw_256"),
        (["accelerate", "launch", "--config_file", "launch/cpu.yaml", "-m", "t2f_dist.train", "--help"], "--dry-run"),
        (["bash", "launch/k8s/pod.sh", "-m", "t2f_dist.train", "--config", "configs/nothing.yaml"], "nothing.yaml"),
        (["python", "-m", "pip", "check"], "No broken requirements"),
    ):
        done = subprocess.run(command, cwd=image, env=environment, capture_output=True, text=True, check=False)
        assert says in done.stdout + done.stderr, done.stdout + done.stderr
