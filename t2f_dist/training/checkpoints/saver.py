"""Checkpoints written while training goes on."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.checkpoint import Copy, State
from t2f_dist.training.gan import Gan

FAILURES_MAX = 3  # in a row
RETRY_SECONDS = 1.0  # before the second try where nothing else is left to do; twice as long before each other
RETRY_SECONDS_MAX = 30.0
PATIENCE_SECONDS = 150.0  # for which what cannot be written at the end is tried again
SLICE_SECONDS = 0.25  # between two looks at a thread that writes

_REMEDIES = {
    errno.ENOSPC: "free space there, or {less}",
    errno.EDQUOT: "free space there, or {less}",
    errno.EROFS: "make the disk writable again, or name another place with {option}",
    errno.EACCES: "let this user write there, or name another place with {option}",
    errno.EEXIST: "name another place with {option}",
    errno.ENOTDIR: "name another place with {option}",
    errno.ENOENT: "name another place with {option}",
    errno.ENODEV: "mount the disk again, or name another place with {option}",
}

Beat = Callable[[], object]


class Saver:
    """Takes a copy of the training state in memory, and has a thread write it. Main rank only.

    Attributes:
        pause_seconds: for which the last save kept training waiting.
        write_seconds: that the last write took, beside it.

    Where a method waits, it calls `beat` now and then, as long as something moves: files grow, parts arrive in S3,
    files elsewhere, or a try has ended. A write in which nothing does is left to whoever misses the beats.

    Args:
        patience_seconds: for which what cannot be written at the end is tried again.

    Raises OSError, in one line, where nothing can be written to the archive now.
    """

    def __init__(self, archive: Archive, warn: Callable[[str], None], patience_seconds: float = PATIENCE_SECONDS):
        self.archive = archive
        self.warn = warn
        self.patience_seconds = patience_seconds
        self.pause_seconds = 0.0
        self.write_seconds = 0.0
        self._copy = Copy()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None  # of the last write; None: what was copied last is safe
        self._failures = 0  # in a row
        try:
            archive.open()
        except OSError as error:
            raise type(error)(f"no checkpoint can be written to {archive}: {explained(error)}") from None

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, gan: Gan, state: State, beat: Beat | None = None) -> None:
        """Copy the state of this moment; writing it goes on when this returns.

        Where the one before is still being written, it is waited for. One that cannot be written is a warning, and the
        next save is another try. Raises OSError, in one line, at the third failure in a row.
        """
        started = time.perf_counter()
        self._join(beat)
        self._copy.take(gan, state)
        last_try = self._failures >= FAILURES_MAX - 1
        self._start()
        if last_try:  # to go on without the outcome would be to train in vain
            self._join(beat)
            if self._failures >= FAILURES_MAX:
                self._refuse()
        self.pause_seconds = time.perf_counter() - started

    def wait(self, beat: Beat | None = None) -> None:
        """Until what was copied last is safe.

        Where it cannot be written, it is tried again for `patience_seconds`, three times at least: images would be
        lost. Raises OSError, in one line, where it cannot be made safe.
        """
        self._join(beat)
        if self._error is None:
            return
        self.warn(
            f"the checkpoint at {self._copy.images_seen:,} images is not safe yet: it is tried again for"
            f" {self.patience_seconds:.0f} s"
        )
        deadline, pause = time.monotonic() + self.patience_seconds, RETRY_SECONDS
        while self._error is not None:
            left = deadline - time.monotonic()
            if left <= 0 and self._failures >= FAILURES_MAX:
                self._refuse()
            _pause(min(pause, max(left, RETRY_SECONDS)), beat)
            pause = min(2 * pause, RETRY_SECONDS_MAX)
            self._start()
            self._join(beat)

    def close(self, beat: Beat | None = None) -> None:
        """Wait until nothing is being written; an error of that has been said, and is none any more."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        seen = None
        while thread.is_alive():
            thread.join(SLICE_SECONDS)
            if beat is not None and thread.is_alive() and (progress := self.archive.progress()) != seen:
                seen = progress
                beat()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._write, name="checkpoint", daemon=True)
        self._thread.start()

    def _join(self, beat: Beat | None) -> None:
        """Wait for the thread. Raises what it raised, but for an OSError, which the next try may mend."""
        self.close(beat)
        if self._error is not None and not isinstance(self._error, OSError):
            raise self._error

    def _refuse(self) -> NoReturn:
        assert self._error is not None
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


def _pause(seconds: float, beat: Beat | None) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if beat is not None:
            beat()
        time.sleep(min(left, SLICE_SECONDS))


def explained(error: BaseException, option: str = "checkpoint.folder", less: str = "lower checkpoint.keep") -> str:
    """Why something could not be written, and what to do about it.

    Args:
        option: by which another place is named.
        less: what makes what is written smaller.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return f"{reason}; {_REMEDIES[number].format(option=option, less=less)}" if number in _REMEDIES else reason
