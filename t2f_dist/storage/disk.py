"""A folder of this machine, and the writing of files there: whole or not at all."""

import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from t2f_dist.storage import url


class Entry(NamedTuple):
    """A file of a folder.

    Attributes:
        name: relative to the folder, with /.
        size: in bytes; -1 of what is no plain file, and where a server does not say.
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

    def entry(self, name: str) -> Entry | None:
        entry = entry_at(self.at(name))
        return entry and entry._replace(name=name)

    def read(self, name: str, start: int, length: int | None, bytes_max: int | None = None) -> bytes:
        with opened(self.at(name)) as stream:
            if start:
                stream.seek(start)
            content = stream.read(_most(length, bytes_max))
        return checked(content, bytes_max)

    def fetch(self, name: str, temporary: Path, progress: Callable[[int], object] | None) -> None:
        shutil.copyfile(self.at(name), temporary)
        if progress:
            progress(temporary.stat().st_size)

    def store(self, path: Path, name: str) -> None:
        there = self.at(name)
        there.parent.mkdir(parents=True, exist_ok=True)
        with replacing(there) as temporary:
            shutil.copyfile(path, temporary)

    def write(self, name: str, content: bytes | memoryview, progress: Callable[[int], object] | None = None) -> None:
        there = self.at(name)
        there.parent.mkdir(parents=True, exist_ok=True)
        write_file(there, content)
        if progress:
            progress(memoryview(content).nbytes)

    def delete(self, name: str) -> None:
        self.at(name).unlink(missing_ok=True)

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)


def entry_at(path: str | Path) -> Entry | None:
    """What is known of a plain file, whose name is the path; None where there is none, nor can be. Raises OSError."""
    try:
        about = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no path holds a zero byte
        return None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return None
        raise
    return Entry(str(path), about.st_size, _stamp(about)) if stat.S_ISREG(about.st_mode) else None


def checked(content: bytes, bytes_max: int | None) -> bytes:
    """What was read of a file with one byte more than is allowed. Raises ValueError where there is that byte."""
    if bytes_max is not None and len(content) > bytes_max:
        raise ValueError(f"more than {bytes_max} bytes, of which no more are read")
    return content


def _most(length: int | None, bytes_max: int | None) -> int:
    """Bytes to ask for; -1: all."""
    wanted = [*([] if length is None else [length]), *([] if bytes_max is None else [bytes_max + 1])]
    return min(wanted, default=-1)


class NotPlain(OSError):
    """A folder, a pipe, of which a writer would be waited for, or a device."""


def opened(path: str | Path) -> BinaryIO:
    """A plain file, to be read. Raises OSError, and NotPlain."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotPlain("not a plain file")
        return io.BufferedReader(io.FileIO(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


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


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a local file whole or not at all. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def scan(folder: Path, below: str = "", hidden: bool = True) -> Iterator[Entry]:
    """The files below a folder, whose names are to begin with `below`; not those that `replacing` left unfinished.

    Links are followed, but a folder is entered once, so that a link that leads back up is none. What is no plain file
    (a link to nothing, a pipe) is found too, so that it can be counted. Raises OSError.

    Args:
        hidden: also what begins with a dot.
    """
    return _scan(folder, below, hidden, set())


def _scan(folder: Path, below: str, hidden: bool, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    about = os.stat(folder)
    if (about.st_dev, about.st_ino) in seen:
        return
    seen.add((about.st_dev, about.st_ino))
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and (not hidden or entry.name.endswith(".tmp")):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            else:
                plain = entry.is_file()
                about = entry.stat(follow_symlinks=plain)  # of a link to nothing, its own
                yield Entry(below + entry.name, about.st_size if plain else -1, _stamp(about))
    for name in sorted(folders):
        yield from _scan(folder / name, f"{below}{name}/", hidden, seen)


def _stamp(about: os.stat_result) -> str:
    return f"{about.st_mtime_ns}-{about.st_size}"


def _sorted(entries: Iterator[Entry], prefix: str) -> list[Entry]:
    return sorted(entry for entry in entries if entry.name.startswith(prefix))
