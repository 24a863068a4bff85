"""Locks between the processes of a node: flock(2), which the kernel releases when a holder ends, however it ends.

For local disks: on network file systems flock is slow, or holds on one node only.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Lock:
    """An open file, and the lock on it. Threads of a process exclude each other too: each opens the file anew.

    A forked child has none of its parent's locks: with a copy of the descriptor it would keep them from being
    released when the parent is killed.

    Args:
        path: made where it is missing, unless `flags` say otherwise.

    Raises OSError where the file cannot be opened.
    """

    def __init__(self, path: Path, flags: int = os.O_RDWR | os.O_CREAT):
        self.path = path
        self.descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)  # -1: released
        _opened.add(self)

    def exclusive(self, wait: bool) -> bool:
        """Take the lock for this holder alone; False where others have it, without `wait`."""
        return self._take(fcntl.LOCK_EX, wait)

    def shared(self, wait: bool) -> bool:
        """Take the lock beside others that share it; False where one has it alone, without `wait`."""
        return self._take(fcntl.LOCK_SH, wait)

    def _take(self, kind: int, wait: bool) -> bool:
        try:
            fcntl.flock(self.descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Unlock and close; again and again does no harm."""
        if self.descriptor >= 0:
            # Said, not left to the closing: a child that was forked a moment ago may still have its copy.
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            self._close()

    def _close(self) -> None:
        _opened.discard(self)
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


_opened: set[Lock] = set()


def _close_in_child() -> None:
    for lock in list(_opened):
        lock._close()


os.register_at_fork(after_in_child=_close_in_child)
