"""Local copies of remote files that are read in pieces, for as long as a process of this machine uses them."""

import atexit
import contextlib
import fcntl
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder

_held: dict[str, tuple[Path, int, int]] = {}  # by place: the copy, the descriptor of its lock, the process


def staged(place: str | Path) -> Path:
    """The path of a file: its own, or of a copy that is fetched once a machine and removed when no process uses it.

    The copy stands in the system's folder for temporary files (TMPDIR). What killed processes leave there is used by
    the next that asks for the same file, and then removed.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be fetched, or not be written.
        ValueError: the folder for copies belongs to someone else; and as `url.check`.
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
        _held[checked] = _copy(Folder(folder), name, _own_folder() / f"{key}{Path(name).suffix}")
    return _held[checked][0]


def _copy(folder: Folder, name: str, path: Path) -> tuple[Path, int, int]:
    lock = path.with_name(path.name + ".lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for who fetches it, or removes it
            if _is_at(descriptor, lock) and path.is_file():
                return path, descriptor, os.getpid()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, lock) and not path.is_file():
                folder.fetch(name, path)
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
