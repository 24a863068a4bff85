"""The bounded folder of a cache: what may be fetched into it, what is evicted for it, what stays.

    KEY-NAME    a whole file: KEY says what it is, NAME is for people. It gets this name by a rename.
    KEY.fetch   locked by the process that fetches it; holds the bytes that are reserved for it
    KEY.part/   what it has of it so far
    ID.pins     locked by the process that will need what it lists
    node.lock   locked while the files above are counted, made, renamed or removed

Every lock is a flock: it ends with its holder. So a fetch whose lock is free is one whose process was killed; whoever
comes next removes it, and it counts no more. Whole files and reservations together never exceed the bound.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from t2f_dist.storage.lock import Lock

ENTRY = re.compile(r"([0-9a-f]{16})-.+")
PASSING = re.compile(r"([0-9a-f]{16})\.(fetch|part|pins)")


class Full(NamedTuple):
    """No space now, and what would have to be free."""

    lacking: int


class Fetching(NamedTuple):
    """Another is at it."""

    lock: Lock


class _Entry(NamedTuple):
    used: float  # time
    key: str
    path: Path
    size: int


@dataclass(frozen=True)
class Space:
    """Args: as of the cache. What else lies in the folder is neither counted nor touched."""

    folder: Path
    max_bytes: int

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.locked():
            self._census()  # also removes what killed processes left

    def part(self, key: str) -> Path:
        """Where whoever claimed a file may write."""
        return self.folder / f"{key}.part"

    def claim(self, file: str, size: int, spare_pinned: bool) -> Lock | Fetching | Full | None:
        """The right to fetch `file` (KEY-NAME), with space for it; None where it is here."""
        path, fetch = self.folder / file, self._fetch(file[:16])
        with self.locked():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size == size:
                    return None
                path.unlink()  # cut by somebody
            entries, reserved = self._census()
            with contextlib.suppress(FileNotFoundError):
                return Fetching(Lock(fetch, os.O_RDONLY))
            lacking = sum(entry.size for entry in entries) + reserved + size - self.max_bytes
            if lacking > 0 and size <= self.max_bytes:
                lacking -= self._evict(entries, lacking, spare_pinned)
            if lacking > 0:
                return Full(lacking)
            lock = Lock(fetch, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                lock.exclusive(wait=False)  # it is: nobody else looks before `node.lock` is free
                os.write(lock.descriptor, str(size).encode())
            except BaseException:
                lock.release()  # the next census removes the file
                raise
            return lock

    def give_back(self, key: str, claim: Lock) -> None:
        """A claim, whether the file has come or not; again and again does no harm. Under `locked`."""
        if is_at(self._fetch(key), claim.descriptor):
            shutil.rmtree(self.part(key), ignore_errors=True)
            self._fetch(key).unlink()
        claim.release()

    def _census(self) -> tuple[list[_Entry], int]:
        """Whole files, and the bytes reserved for others; removes what killed processes left. Under `node.lock`."""
        entries, reserved, parts, fetching = [], 0, [], set()
        with os.scandir(self.folder) as found:
            for each in found:
                if match := ENTRY.fullmatch(each.name):
                    status = each.stat()
                    entries.append(_Entry(status.st_mtime, match[1], Path(each.path), status.st_size))
                elif (match := PASSING.fullmatch(each.name)) and match[2] == "part":
                    parts.append((match[1], each.path))
                elif match and match[2] == "fetch" and (content := _content_if_locked(Path(each.path))) is not None:
                    reserved += int(content)
                    fetching.add(match[1])
        for key, path in parts:
            if key not in fetching:
                shutil.rmtree(path, ignore_errors=True)
        return entries, reserved

    def _evict(self, entries: Sequence[_Entry], num_bytes: int, spare_pinned: bool) -> int:
        """Remove files that nobody holds, until `num_bytes` are free. -> bytes freed. Under `node.lock`.

        Those that were used longest ago go first; those that somebody pinned last, the latest needed of them first.
        """
        pinned: dict[str, int] = {}
        for path in self.folder.glob("*.pins"):
            if PASSING.fullmatch(path.name) and (content := _content_if_locked(path)) is not None:
                for turn, key in enumerate(content.split()):
                    pinned[key] = min(turn, pinned.get(key, turn))
        freed = 0
        for entry in sorted(entries, key=lambda entry: (entry.key in pinned, -pinned.get(entry.key, 0), entry)):
            if freed >= num_bytes or (spare_pinned and entry.key in pinned):
                break
            with Lock(entry.path, os.O_RDONLY) as lock:
                if lock.exclusive(wait=False):
                    entry.path.unlink()
                    freed += entry.size
        return freed

    def _fetch(self, key: str) -> Path:
        return self.folder / f"{key}.fetch"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with Lock(self.folder / "node.lock") as lock:
            lock.exclusive(wait=True)
            yield


class Pins:
    """What a process will need soon: not evicted to prefetch something else. They end with the process."""

    def __init__(self, space: Space):
        self._space = space
        self._path = space.folder / f"{secrets.token_hex(8)}.pins"
        with space.locked():
            self._lock = Lock(self._path)
            self._lock.exclusive(wait=False)

    def set(self, keys: Iterable[str]) -> None:
        """Replace what is pinned; the first needed comes first."""
        with self._space.locked():
            os.ftruncate(self._lock.descriptor, 0)
            os.pwrite(self._lock.descriptor, "\n".join(keys).encode(), 0)

    def close(self) -> None:
        """Pin nothing any more."""
        with self._space.locked():
            self._path.unlink(missing_ok=True)
            self._lock.release()


def is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file (-1: none) is the one that has this path now."""
    try:
        return descriptor >= 0 and os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _content_if_locked(path: Path) -> str | None:
    """What a file holds; None where its process was killed: then it is removed. Under `node.lock`."""
    with Lock(path, os.O_RDONLY) as lock:
        if lock.shared(wait=False):
            path.unlink()
            return None
        return path.read_text(encoding="ascii")
