"""The environment of a peer: what NAME.txt pins and, where it says so, the libraries of this one behind that.

Pins exclude each other and ours, so that each peer has its own. torch is 5 GB and the same for all: a file that begins
with `# borrows` is installed without dependencies and finds the rest (torch, Pillow and so on) in this environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.section import ROOT

SCRIPTS = Path(__file__).resolve().parent
HOME = ROOT / "runs" / "peers"


def python(name: str) -> Path:
    """The Python of a peer's environment; made where it is not, not finished, or of other pins."""
    if name == "t2f-dist":
        return Path(sys.executable)
    requirements = SCRIPTS / f"{name}.txt"
    content = requirements.read_text()
    digest = hashlib.sha256(content.encode()).hexdigest()
    home = HOME / name
    path, made = home / "bin" / "python", home / "made"
    if made.exists() and made.read_text() == digest:
        return path
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, symlinks=True, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(path), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "-r", str(requirements)], check=True)
    if content.startswith("# borrows"):
        borrowed = [path for path in site.getsitepackages() if Path(path).is_dir()]
        (own,) = home.glob("lib/python*/site-packages")
        (own / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    made.write_text(digest)
    return path


def surroundings(threads: int = 1) -> dict[str, str]:
    """Environment variables: no more threads than said, no network, no questions to a home page."""
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "DO_NOT_TRACK": "1"}
    quiet |= {"LITDATA_DISABLE_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return os.environ | pinned | quiet


def versions(name: str, packages: Sequence[str]) -> dict[str, str]:
    """What really is imported there: package -> version."""
    script = "import json, sys; from importlib.metadata import version\n"
    script += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    line = [str(python(name)), "-c", script, *packages]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def cores() -> set[int]:
    """Those that this process may use."""
    return os.sched_getaffinity(0)


def run(name: str, script: str, *arguments: str, cores: Sequence[int], threads: int = 1) -> dict:
    """The one JSON line of a script of this folder, run by the peer's Python on these cores alone.

    To what it says, `cpu_seconds` is added: what it and the processes that it started used, its start included.
    """
    line = ["taskset", "-c", ",".join(map(str, cores)), str(python(name)), str(SCRIPTS / script), *arguments]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(line, env=surroundings(threads), stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{script} failed:\n{errors.read().decode(errors='replace')[-4000:]}")
        answer = json.loads(out.read().decode().strip().splitlines()[-1])
    return answer | {"cpu_seconds": usage.ru_utime + usage.ru_stime}


class Server:
    """A script that answers requests, a JSON line each, and stays until it is closed (`ready.serve`)."""

    def __init__(self, name: str, script: str, *arguments: str, cores: Sequence[int], threads: int = 1):
        self.name = name
        line = ["taskset", "-c", ",".join(map(str, cores)), str(python(name)), str(SCRIPTS / script), *arguments]
        HOME.mkdir(parents=True, exist_ok=True)
        self._said = HOME / f"{Path(script).stem}.log"
        with open(self._said, "wb") as errors:
            self._process = subprocess.Popen(
                line, env=surroundings(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} failed:\n{self._said.read_text(errors='replace')[-4000:]}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
