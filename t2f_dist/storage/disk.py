"""A folder of this machine, and the writing of files there: whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from t2f_dist.storage import url


class Entry(NamedTuple):
    """A file of a folder.

    Attributes:
        name: relative to the folder, with /.
        size: in bytes.
        stamp: a text that changes with the content: of the time and the size, or what a store has for it (ETag).
    """

    name: str
    size: int
    stamp: str


@dataclass(frozen=True)
class Disk:
    """A local folder; the methods are those of storage.folder.Folder. They raise OSError, and ValueError as `at`."""

    path: Path

    def at(self, name: str) -> Path:
        """Raises ValueError for a name that leads out of the folder."""
        url.join(".", name)
        return self.path / name

    def list(self, prefix: str) -> list[Entry]:
        start = prefix.rpartition("/")[0]
        if not start:
            return _sorted(scan(self.path), prefix)
        return _sorted(scan(self.at(start), start + "/"), prefix) if self.at(start).is_dir() else []

    def size(self, name: str) -> int | None:
        path = self.at(name)
        try:
            return path.stat().st_size if path.is_file() else None
        except FileNotFoundError:
            return None

    def read(self, name: str, start: int, length: int | None) -> bytes:
        with open(self.at(name), "rb", buffering=0 if length is None else -1) as stream:
            stream.seek(start)
            return stream.read(-1 if length is None else length)

    def fetch(self, name: str, temporary: Path, progress: Callable[[int], object] | None) -> None:
        shutil.copyfile(self.at(name), temporary)
        if progress:
            progress(temporary.stat().st_size)

    def store(self, path: Path, name: str) -> None:
        there = self.at(name)
        there.parent.mkdir(parents=True, exist_ok=True)
        with replacing(there) as temporary:
            shutil.copyfile(path, temporary)

    def write(self, name: str, content: bytes) -> None:
        there = self.at(name)
        there.parent.mkdir(parents=True, exist_ok=True)
        write_file(there, content)

    def delete(self, name: str) -> None:
        self.at(name).unlink(missing_ok=True)

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which what is written there takes when the block ends: whole or not at all.

    The name is of no other process's; what a killed one leaves begins with a dot and ends in .tmp. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a small local file whole or not at all. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def scan(folder: Path, below: str = "") -> Iterator[Entry]:
    """The files below a folder, whose names are to begin with `below`; not those that `replacing` left unfinished.

    Links are followed, but a folder is entered once, so that a link that leads back up is none. Raises OSError.
    """
    return _scan(folder, below, set())


def _scan(folder: Path, below: str, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    about = os.stat(folder)
    if (about.st_dev, about.st_ino) in seen:
        return
    seen.add((about.st_dev, about.st_ino))
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.startswith(".") and entry.name.endswith(".tmp"):
                continue
            elif entry.is_file() or entry.is_symlink():  # else a pipe or a device, of which reading has no end
                about = entry.stat(follow_symlinks=entry.is_file())
                yield Entry(below + entry.name, about.st_size, f"{about.st_mtime_ns}-{about.st_size}")
    for name in sorted(folders):
        yield from _scan(folder / name, f"{below}{name}/", seen)


def _sorted(entries: Iterator[Entry], prefix: str) -> list[Entry]:
    return sorted(entry for entry in entries if entry.name.startswith(prefix))
