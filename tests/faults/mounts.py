"""Small disks of a test, which need root; they are unmounted when the block is left."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

FILLER = "filler"
NAME = "t2f-dist-test"  # of a disk, with the number of the process that mounted it


def _mount(*options: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount does not work here: {done.stderr.strip()}")


def _remove_leftovers() -> None:
    """Disks of test processes that were killed before they could unmount them."""
    for line in Path("/proc/mounts").read_text().splitlines():
        source, path = line.split()[:2]
        owner = source.removeprefix(f"{NAME}-")
        if source != owner and not Path("/proc", owner).exists():
            _unmount(Path(path))


def _unmount(path: Path) -> None:
    subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False)


@contextmanager
def tmpfs(path: Path, megabytes: int) -> Iterator[Path]:
    """A disk of that size in memory, at a folder that is made."""
    _remove_leftovers()
    path.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m", f"{NAME}-{os.getpid()}", str(path))
    try:
        yield path
    finally:
        _unmount(path)


@contextmanager
def bound(source: Path, path: Path) -> Iterator[Path]:
    """A folder seen at another path, or at its own: a mount to be taken away, or made read-only."""
    path.mkdir(parents=True, exist_ok=True)
    _mount("--bind", str(source), str(path))
    try:
        yield path
    finally:
        _unmount(path)


@contextmanager
def sealed(path: Path) -> Iterator[None]:
    """A folder that is read-only for whatever is opened from now on; what is open already is written on."""
    with bound(path, path):
        assert make_read_only(path), "nothing is open yet by way of this mount"
        yield


def unmount(path: Path) -> None:
    """As a disk that is pulled out: also while files on it are open."""
    subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=True)


def make_read_only(path: Path) -> bool:
    """Of what `bound` mounted; False while a file on it is open for writing."""
    done = subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], capture_output=True, check=False)
    return done.returncode == 0


def make_writable(path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,bind,rw", str(path)], capture_output=True, check=True)


def fill(disk: Path) -> None:
    """Until there is no byte left, and none comes free where old files are removed."""
    with open(disk / FILLER, "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


def free(disk: Path) -> None:
    (disk / FILLER).unlink()
