"""Loader processes that the kernel kills: noticed where a batch is asked for, and survived within bounds."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

IN_A_ROW = 3  # losses without a batch in between that are survived: a sample that kills its reader would go on for ever
MOST, WITHIN = 10, 1000  # so many losses within so many batches
NOTICE_SECONDS = 0.5

CAUSES = {
    signal.SIGKILL: "as the kernel does where memory is short",
    signal.SIGBUS: "as the kernel does where shared memory is full",
    signal.SIGSEGV: "a library crashed",
}
REMEDIES = {
    signal.SIGKILL: "lower data.num_workers, or give the job more memory",
    signal.SIGBUS: "give the job more shared memory (/dev/shm), or lower data.num_workers",
    signal.SIGSEGV: "a sample that is read there crashes its decoder; t2f-dist verify reads all of them",
}


class LostWorkers(Exception):
    """Loader processes ended that nobody had asked to.

    Attributes:
        how: the signal of the first, or its exit code.
    """

    def __init__(self, ended: Collection[BaseProcess]):
        first = min(ended, key=lambda process: process.pid or 0)
        code = first.exitcode or 0
        self.how = signal.Signals(-code) if code < 0 else code
        text = f"was killed by {self.how.name}" if isinstance(self.how, signal.Signals) else f"exited with {code}"
        cause = CAUSES.get(self.how) if isinstance(self.how, signal.Signals) else None
        super().__init__(f"loader process {first.pid} {text}{f', {cause}' if cause else ''}")

    @property
    def remedy(self) -> str:
        unknown = "data.num_workers 0 reads in the rank itself, which then shows the error"
        return REMEDIES.get(self.how, unknown) if isinstance(self.how, signal.Signals) else unknown


def check(processes: Collection[BaseProcess], wait: bool = False) -> None:
    """Raise LostWorkers where one of them ended; `wait` a moment for one whose end was just felt in its pipe."""
    ended = _ended(processes)
    for process in processes if wait and not ended else ():
        process.join(NOTICE_SECONDS / len(processes))
    ended = ended or _ended(processes)
    if ended:
        raise LostWorkers(ended)


def _ended(processes: Collection[BaseProcess]) -> list[BaseProcess]:
    return [process for process in processes if process.exitcode not in (None, 0)]


class Hearing:
    """What the main thread does when a child ends: raise LostWorkers while it waits for one of them, and else nothing.

    torch's own handler of SIGCHLD, which comes with the first loader processes, raises in the middle of anything: of a
    training step, of an exchange, while saving. So it is taken away again, and `before` stands there when this closes.
    Other threads hear nothing: there torch itself looks every five seconds.
    """

    def __init__(self, processes: Collection[BaseProcess], before: Any):
        self.processes = processes
        self.waiting = False
        self._before = signal.SIG_DFL if before is None or _is_of_torch(before) else before
        self._installed = bool(processes) and threading.current_thread() is threading.main_thread()
        if self._installed:
            signal.signal(signal.SIGCHLD, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.waiting:
            check(self.processes)

    def close(self) -> None:
        self.waiting = False
        if self._installed:
            signal.signal(signal.SIGCHLD, self._before)


def _is_of_torch(handler: Any) -> bool:
    return callable(handler) and handler.__module__.startswith("torch.utils.data")


class Bound:
    """How often loader processes may be lost."""

    def __init__(self) -> None:
        self.num_batches = 0
        self._losses: list[int] = []  # batches before each

    def add(self, lost: LostWorkers, images_seen: int) -> None:
        """Raise ValueError, with one line to act on, where it is once too often."""
        self._losses = [number for number in self._losses if number > self.num_batches - WITHIN] + [self.num_batches]
        in_a_row = self._losses.count(self.num_batches)
        if in_a_row > IN_A_ROW or len(self._losses) > MOST:
            times = f"{in_a_row} in a row" if in_a_row > IN_A_ROW else f"{len(self._losses)} within {WITHIN} batches"
            raise ValueError(f"{lost}, {times} at {images_seen:,} images: {lost.remedy}") from None

    def again(self, ahead: int) -> bool:
        """Whether the last two losses were so few batches apart."""
        return len(self._losses) > 1 and self._losses[-1] - self._losses[-2] <= ahead
