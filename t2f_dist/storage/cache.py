"""A bounded cache of remote files on the local disk of a node, shared by all its processes, and by several runs.

Each file is fetched once a node: by whichever process needs it first, while the others wait, or by one that fetches
ahead of need. A download that grows past what was reserved for it is cut off. How processes agree: see `space`.

Nobody waits in a circle. The lock of the folder is held for a few system calls, and no other lock is waited for
meanwhile. Who fetches waits for no other process: its space was reserved beforehand. So who waits for a fetch waits
for progress. Only `get` waits for space, which others free by releasing what they hold; where none do, since they wait
for space as well, it gives up after `wait_seconds`. `prefetch` waits for nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from t2f_dist.storage.folder import Folder
from t2f_dist.storage.lock import Lock
from t2f_dist.storage.space import Fetching, Full, Pins, Space, is_at
from t2f_dist.storage.url import name, shown, split

ATTEMPTS = 3  # downloads of a file that arrives damaged
TOUCH_SECONDS = 60.0  # a use within this time of the last is not written down
LOOK_SECONDS = 0.05  # between looks whether space was freed


class Remote(NamedTuple):
    """A file as a manifest lists it."""

    url: str
    size: int  # bytes
    sha256: str

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.url}\n{self.sha256}".encode()).hexdigest()[:16]

    @property
    def file(self) -> str:
        """Its name in the cache: the key, and what people know it by."""
        return f"{self.key}-{re.sub(r'[^A-Za-z0-9._-]', '_', name(self.url))[-100:]}"


class Held:
    """A whole file that stays until it is released; also a context manager.

    Attributes:
        path: of the file.
        descriptor: open for reading.
    """

    def __init__(self, lock: Lock, path: Path):
        self._lock = lock
        self.path = path

    @property
    def descriptor(self) -> int:
        return self._lock.descriptor

    def release(self) -> None:
        """Let it be evicted, and close it; again and again does no harm, nor in a forked child."""
        self._lock.release()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Stopped(Exception):
    pass


class _Longer(Exception):
    pass


class Cache:
    """Files fetched once a node, by whoever needs them first. May be handed to other processes.

    Args:
        folder: on a local disk; made where it is missing. What else lies there is left alone.
        max_bytes: of whole files and of those that are being fetched.
        wait_seconds: how long `get` waits for others to release what they hold, where all space is held.

    Raises ValueError where the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, max_bytes: int, wait_seconds: float = 60.0):
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.wait_seconds = wait_seconds
        try:
            with self._explained():
                self._space = Space(self.folder, max_bytes)
        except OSError as error:
            raise ValueError(
                f"{folder} cannot be the cache ({error.strerror or error}): set data.cache_dir to a folder on a local"
                " disk that can be written to"
            ) from None

    def get(self, url: str, size: int, sha256: str) -> Held:
        """The file, fetched unless it is here; waits while another process fetches it.

        Raises ValueError where it keeps arriving damaged, or the cache is too small; OSError where it cannot be
        fetched (FileNotFoundError where there is none), or the disk is full.
        """
        remote = Remote(url, size, sha256)
        give_up_at = None
        with self._explained():
            while True:
                if held := self._open(remote):
                    return held
                found = self._space.claim(remote.file, remote.size, spare_pinned=False)
                if isinstance(found, Lock):
                    return self._fetch(remote, found)
                if isinstance(found, Fetching):
                    with found.lock:
                        found.lock.shared(wait=True)
                elif isinstance(found, Full):
                    give_up_at = give_up_at or time.monotonic() + self.wait_seconds
                    if time.monotonic() >= give_up_at or size > self.max_bytes:
                        raise ValueError(
                            f"data.cache_bytes {self.max_bytes:,} is too small: {shown(url)} has {size:,} bytes, and"
                            f" {found.lacking:,} more than could be freed are needed, as running processes read the"
                            f" rest; raise it by as much"
                        )
                    time.sleep(LOOK_SECONDS)

    def prefetch(
        self, url: str, size: int, sha256: str, going: Callable[[], bool] = lambda: True
    ) -> Literal["here", "elsewhere", "full", "stopped"]:
        """Fetch the file ahead of need, evicting only what no process has pinned; waits for no other process.

        -> "here": it is in the cache; "elsewhere": another is fetching it; "full": no space now; "stopped": `going`,
        asked at each chunk that arrives, said False. Raises as `get`.
        """
        remote = Remote(url, size, sha256)
        with self._explained():
            with contextlib.suppress(FileNotFoundError):
                if (self.folder / remote.file).stat().st_size == size:
                    return "here"
            found = self._space.claim(remote.file, remote.size, spare_pinned=True)
            if found is None:
                return "here"
            if isinstance(found, Full):
                return "full"
            if isinstance(found, Fetching):
                found.lock.release()
                return "elsewhere"
            try:
                self._fetch(remote, found, going).release()
            except _Stopped:
                return "stopped"
            return "here"

    def drop_damaged(self, held: Held, sha256: str) -> bool:
        """For a reader that found damage: whether to get the file again, since what it holds is not what was fetched.

        Then it is dropped, unless another reader has done so: what that one fetched stays. Reads the whole file. Where
        it is what its sha256 says, the damage was there when the file was stored.
        """
        if is_at(held.path, held.descriptor) and _sha256(held.descriptor) == sha256:
            return False
        with self._space.locked():
            if is_at(held.path, held.descriptor):
                held.path.unlink()
        return True

    def pins(self) -> Pins:
        """What this process will need soon, to begin with nothing."""
        with self._explained():
            return Pins(self._space)

    def _open(self, remote: Remote) -> Held | None:
        """The whole file, held; None where it is not here, or is about to be evicted."""
        path = self.folder / remote.file
        try:
            lock = Lock(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        held = Held(lock, path)
        status = os.fstat(lock.descriptor)
        if lock.shared(wait=False) and status.st_size == remote.size and is_at(path, lock.descriptor):
            if time.time() - status.st_mtime > TOUCH_SECONDS:
                _touch(lock.descriptor)
            return held
        held.release()
        return None

    def _fetch(self, remote: Remote, claim: Lock, going: Callable[[], bool] = lambda: True) -> Held:
        """Fetch what was claimed, and give the claim back."""
        try:
            file = self._download(remote, going)
            lock = Lock(file, os.O_RDONLY)
            with self._space.locked():
                lock.shared(wait=False)
                _touch(lock.descriptor)
                file.rename(self.folder / remote.file)
                self._space.give_back(remote.key, claim)
            return Held(lock, self.folder / remote.file)
        except BaseException:
            with self._space.locked():
                self._space.give_back(remote.key, claim)
            raise

    def _download(self, remote: Remote, going: Callable[[], bool]) -> Path:
        """-> the file, whole and as it was stored, where only this process looks."""

        folder, file_name = split(remote.url)
        part, found = self._space.part(remote.key), ""

        def check(_: int) -> None:
            if not going():
                raise _Stopped
            if _bytes(part) > remote.size:
                raise _Longer

        for _ in range(ATTEMPTS):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            file = part / "file"
            try:
                self._check_disk(remote.size)
                Folder(folder).fetch(file_name, file, check)
            except _Longer:
                found = "more bytes"
                continue
            except OSError:
                self._check_disk(remote.size - _bytes(part))
                raise
            if (size := file.stat().st_size) != remote.size:
                found = f"{size:,} bytes"
            elif (sha256 := _sha256_at(file)) != remote.sha256:
                found = f"sha256 {sha256}"
            else:
                return file
        raise ValueError(
            f"{shown(remote.url)}: expected {remote.size:,} bytes with sha256 {remote.sha256}, found {found}, the last"
            f" of {ATTEMPTS} times: store the file again as it was, or build the shards anew"
        )

    def _check_disk(self, num_bytes: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes:
            raise OSError(errno.ENOSPC, f"{free:,} bytes are free, {num_bytes:,} needed")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(
                f"the disk of {self.folder} is full ({error.strerror}): free some of it, lower data.cache_bytes"
                f" {self.max_bytes:,}, or set data.cache_dir to a folder on another disk"
            ) from None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _sha256_at(path: Path) -> str:
    with open(path, "rb") as file:
        return _sha256(file.fileno())


def _sha256(descriptor: int) -> str:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _touch(descriptor: int) -> None:
    now = time.time_ns()  # the clock of the file system is coarse: uses one after the other would seem one
    os.utime(descriptor, ns=(now, now))
