"""Checkpoints written while training goes on."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable

from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.checkpoint import Copy, State
from t2f_dist.training.gan import Gan

FAILURES_MAX = 3  # in a row
RETRY_SECONDS = 1.0  # between tries where nothing else is left to do

_REMEDIES = {
    errno.ENOSPC: "free space there, or lower checkpoint.keep",
    errno.EDQUOT: "free space there, or lower checkpoint.keep",
    errno.EROFS: "make the disk writable again, or name another place with checkpoint.folder",
    errno.EACCES: "let this user write there, or name another place with checkpoint.folder",
    errno.ENODEV: "mount the disk again, or name another place with checkpoint.folder",
}


class Saver:
    """Takes a copy of the training state in memory, and has a thread write it. Main rank only.

    Attributes:
        pause_seconds: for which the last save kept training waiting.
        write_seconds: that the last write took, beside it.

    Raises OSError where nothing can be written to the archive now.
    """

    def __init__(self, archive: Archive, warn: Callable[[str], None]):
        self.archive = archive
        self.warn = warn
        self.pause_seconds = 0.0
        self.write_seconds = 0.0
        self._copy = Copy()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None  # of the last write; None: what was copied last is safe
        self._failures = 0  # in a row
        archive.open()

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, gan: Gan, state: State) -> None:
        """Copy the state of this moment; writing it goes on when this returns.

        Where the one before is still being written, it is waited for. One that cannot be written is a warning, and the
        next save is another try. Raises OSError, in one line, at the third failure in a row.
        """
        started = time.perf_counter()
        self._join()
        self._copy.take(gan, state)
        last_try = self._failures >= FAILURES_MAX - 1
        self._thread = threading.Thread(target=self._write, name="checkpoint", daemon=True)
        self._thread.start()
        if last_try:  # to go on without the outcome would be to train in vain
            self._join()
            self._refuse()
        self.pause_seconds = time.perf_counter() - started

    def wait(self) -> None:
        """Until what was copied last is safe. Raises OSError where it cannot be made so, after the third try."""
        self._join()
        while self._error is not None:
            self._refuse()
            time.sleep(RETRY_SECONDS)
            self._write()
            self._join()

    def close(self) -> None:
        """Wait until nothing is being written; an error of that has been said, and is none any more."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _join(self) -> None:
        """Wait for the thread. Raises what it raised, but for an OSError, which the next try may mend."""
        self.close()
        if self._error is not None and not isinstance(self._error, OSError):
            raise self._error

    def _refuse(self) -> None:
        if self._failures >= FAILURES_MAX and self._error is not None:
            raise OSError(
                f"no checkpoint could be written to {self.archive}, {self._failures} times in a row, the last at"
                f" {self._copy.images_seen:,} images: {explained(self._error)}"
            ) from None

    def _write(self) -> None:
        started = time.perf_counter()
        try:
            self._try()
        except BaseException as error:
            self._error = error  # for whoever waits: a thread has nobody to raise it to
        self.write_seconds = time.perf_counter() - started

    def _try(self) -> None:
        copy = self._copy
        try:
            self.archive.write(copy.images_seen, copy.files, copy.body, self.warn)
        except OSError as error:
            self._error = error
            self._failures += 1
            if self._failures < FAILURES_MAX:
                self.warn(
                    f"the checkpoint at {copy.images_seen:,} images could not be written to {self.archive}:"
                    f" {explained(error)}; training goes on, and the next is another try"
                )
            return
        self._error, self._failures = None, 0
        try:
            self.archive.prune()
        except OSError as error:
            self.warn(f"older checkpoints in {self.archive} could not be removed: {explained(error)}")


def explained(error: BaseException) -> str:
    """Why something could not be written, and what to do about it."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return f"{reason}; {_REMEDIES[number]}" if number in _REMEDIES else reason
