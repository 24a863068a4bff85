"""Python processes of a test, of which none outlives it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def children() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """-> what starts `python -m MODULE ARGUMENTS ...` with pipes; whatever happens, all are ended with the block."""
    processes: list[subprocess.Popen[str]] = []

    def start(module: str, *arguments: str) -> subprocess.Popen[str]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        processes.append(subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, text=True, **pipes))
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.communicate()
