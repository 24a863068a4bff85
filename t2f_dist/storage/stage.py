"""Local copies of remote files that are read in pieces, for as long as a process of this machine uses them.

And room for files that are made here and then stored elsewhere.
"""

import atexit
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder
from t2f_dist.storage.lock import Lock

UNKNOWN_BYTES_MAX = 4 << 30  # of a file of which its server does not say the size
_WORK = "work-"

_held: dict[str, tuple[Path, int, int]] = {}  # by place: the copy, the descriptor of its lock, the process


def staged(place: str | Path, bytes_max: int | None = None) -> Path:
    """The path of a file: its own, or of a copy that is fetched once a machine and removed when no process uses it.

    The copy stands in the system's folder for temporary files (TMPDIR). What killed processes leave there is used by
    the next that asks for the same file, and then removed.

    Args:
        bytes_max: that are fetched; what is here already may be larger.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be fetched, or not be written.
        ValueError: the folder for copies belongs to someone else; more bytes than `bytes_max`, than the server says
            there are, or than UNKNOWN_BYTES_MAX where it does not say; and as `url.check`.
    """
    path = url.local(place)
    if path is not None:
        return path
    checked = url.check(place)
    if checked not in _held:
        folder, name = url.split(checked)
        entry = Folder(folder).entry(name)
        if entry is None:
            raise FileNotFoundError(f"no such file: {url.shown(checked)}")
        key = hashlib.sha256(f"{checked}\n{entry.size}\n{entry.stamp}".encode()).hexdigest()[:32]
        most = entry.size if entry.size >= 0 else UNKNOWN_BYTES_MAX
        most = most if bytes_max is None else min(most, bytes_max)
        if entry.size > most:
            raise ValueError(f"{url.shown(checked)}: {entry.size} bytes; at most {most} are fetched")
        _held[checked] = _copy(Folder(folder), name, _own_folder() / f"{key}{Path(name).suffix}", most)
    return _held[checked][0]


@contextlib.contextmanager
def room() -> Iterator[Path]:
    """A new folder of this process alone, in the system's folder for temporary files; removed when the block ends.

    Those of processes that were killed are removed before.

    Raises:
        OSError: it cannot be made.
        ValueError: as `staged`.
    """
    folder = _own_folder()
    _clear(folder)
    while True:
        path = folder / f"{_WORK}{secrets.token_hex(8)}"
        with Lock(path.with_suffix(".lock")) as lock:
            if not (lock.exclusive(wait=False) and _is_at(lock.descriptor, lock.path)):
                continue  # another process took it for that of a dead one, in the moment before it was locked
            try:
                path.mkdir(mode=0o700)
                yield path
            finally:
                shutil.rmtree(path, ignore_errors=True)
                lock.path.unlink(missing_ok=True)
            return


def _clear(folder: Path) -> None:
    """Remove the rooms of processes that are no more: nobody holds their locks."""
    for path in folder.glob(f"{_WORK}*.lock"):
        with contextlib.suppress(FileNotFoundError), Lock(path, os.O_RDWR) as lock:
            if lock.exclusive(wait=False) and _is_at(lock.descriptor, path):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)


def _copy(folder: Folder, name: str, path: Path, bytes_max: int) -> tuple[Path, int, int]:
    came = 0

    def count(num_bytes: int) -> None:
        nonlocal came
        came += num_bytes
        if came > bytes_max:
            raise ValueError(f"{url.shown(folder.at(name))}: more than {bytes_max} bytes, of which no more are fetched")

    lock = path.with_name(path.name + ".lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for who fetches it, or removes it
            if _is_at(descriptor, lock) and path.is_file():
                return path, descriptor, os.getpid()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, lock) and not path.is_file():
                came = 0
                for left in path.parent.glob(f".{path.name}.*.tmp"):  # of who was killed while it fetched
                    left.unlink(missing_ok=True)
                folder.fetch(name, path, count)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the next time round it is there, unless someone was quick to remove it


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a file that is open still has its name: who used it last may have removed it meanwhile."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@atexit.register
def release() -> None:
    """Give all copies up; those that no other process uses are removed."""
    while _held:
        _, (path, descriptor, process) = _held.popitem()
        if process != os.getpid():
            continue  # inherited by a fork: the parent's, which may use it still
        with contextlib.suppress(OSError):  # another uses it, or it is gone
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".lock").unlink(missing_ok=True)
        os.close(descriptor)


def _own_folder() -> Path:
    """A folder that only this user may look into."""
    folder = Path(tempfile.gettempdir(), f"t2f-dist-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    about = os.lstat(folder)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise ValueError(f"{folder} is not a folder of this user alone; remove it, or set TMPDIR to another place")
    return folder
