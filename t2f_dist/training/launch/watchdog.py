"""Ends a run in which nothing moves any more, and says why.

An exchange waits for all ranks. So when one of them hangs, all stand still, for ever or until a timeout that names the
wrong one. Here each rank has a thread that looks at its own main thread, writes down where it stands in the store of
the launch, and, when it stands still for the bound, reads where the others stand:

* a rank that writes no more is stopped, or its host or the network to it is gone;
* a rank whose main thread is in no exchange hangs by itself, and its stack says where;
* if all are in an exchange, the network between them is cut;
* if the store does not answer, the network to its host is.

The first to come to a verdict writes it into the store, so that all say the same. Each writes the stacks of all its
threads to RUN/hang-RANK.txt, one writes the verdict into RUN/status.json, and all end with EXIT_HUNG, within about 1.3
times the bound after the last movement. The bound is longer at the start, and where storage is waited for (bound.py): a
rank that stands there is waited for as long by all. A rank whose interpreter is kept by one thread cannot do that: its
guard, a small process, kills it.

Not counted is the time in which this process was stopped or the machine slept: a turn of the thread counts for two at
most, however late it comes.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.util import register_after_fork
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch.distributed as dist

from t2f_dist.training.launch import guard
from t2f_dist.training.launch.board import Board, Verdict
from t2f_dist.training.launch.bound import STARTING, bound_of
from t2f_dist.training.launch.place import LEFT, WORKS, Place, standing
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.launch.verdict import cut_off, hangs, is_mute, judge
from t2f_dist.training.run import status
from t2f_dist.training.run.status import EXIT_HUNG

TURNS = 20  # of the thread within the bound
TURN_SECONDS = 5.0  # at most
LOOKING = 0.25  # of the bound: a rank that stands still for so long looks at the others
# Times the longest bound of all ranks: so long may others move while this one waits. Exchanges give up later.
PATIENCE = 1.75
LEAVING = "leaving"  # the phase in which rank 0 has written how the run ended, though others may not read it yet
GUARD, GUARD_SECONDS = 1.5, 15.0  # times the bound, or so much longer: the others come first, and then their launcher
GRACE_SECONDS = 10.0  # for the store, and for the disk, at most


class Watchdog:
    """Watches this rank's main thread from its construction, by all ranks together, until `close`.

    seconds: the bound of most phases. run: the folder of the run. Raises OSError where the guard cannot be started.
    """

    def __init__(self, ranks: Ranks, seconds: float, run: Path):
        self._ranks = ranks
        self._seconds = float(seconds)
        self._turn = min(TURN_SECONDS, self._seconds / TURNS)
        self._grace = min(GRACE_SECONDS, max(1.0, self._seconds / 4))
        self._run = run
        self._host = socket.gethostname()
        self._main = threading.main_thread().ident or 0
        self._place = ("starting", 0)  # a new object at each beat: that is what moves
        self._number = 0
        self._first: int | None = None  # images seen before the first step of this launch
        self._closing = threading.Event()
        self._board = self._open_board()
        # A file without a name: the guard reads what faulthandler writes into it.
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115 - open until the end
        faulthandler.register(signal.SIGUSR2, file=self._stacks, all_threads=True, chain=False)
        self._guard = self._start_guard()
        register_after_fork(self, Watchdog._leave_guard)  # a loader process would keep the guard alive
        self._thread = threading.Thread(target=self._run_thread, name="watchdog", daemon=True)
        self._thread.start()

    def enter(self, phase: str, images_seen: int) -> None:
        """The main thread comes to another phase, or to the same one again."""
        if self._first is None and phase not in STARTING:
            self._first = images_seen
        self._place = (phase, images_seen)

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The others are told that this rank has left; nothing is watched any more."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        if self._board is not None:
            place = self._own(0.0, LEFT)
            self._board.demand(lambda: self._boards.write(place), self._grace)
            self._board.close()
        self._leave_guard()
        self._guard.wait()
        faulthandler.unregister(signal.SIGUSR2)
        self._stacks.close()

    # Its parts.

    def _open_board(self) -> Board | None:
        if self._ranks.world_size == 1:
            return None
        # Of this watchdog alone: a store outlives a run where a process trains twice, and where ranks start again.
        name = self._ranks.broadcast(time.time_ns())
        board = Board(
            self._ranks.store or _store_of_group(), f"watchdog/{name}/", self._ranks.rank, self._ranks.world_size
        )
        board.write(self._own(0.0))
        self._ranks.barrier()  # whoever reads finds an entry of each
        return board

    @property
    def _boards(self) -> Board:
        assert self._board is not None
        return self._board

    def _start_guard(self) -> subprocess.Popen[bytes]:
        stacks = self._stacks.fileno()
        figures = (str(self._ranks.rank), str(self._run), str(stacks))
        line = [sys.executable, "-I", "-S", str(Path(guard.__file__)), *figures]
        return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(stacks,), bufsize=0)

    def _leave_guard(self) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.close()  # it ends when nobody has that any more

    def _own(self, seconds: float, state: str = WORKS, where: str = "") -> Place:
        self._number += 1
        phase, images_seen = self._place
        bound = self._bound_at(phase, images_seen)
        me = (self._ranks.rank, self._host, os.getpid())
        return Place(*me, self._number, phase, images_seen, seconds, bound, state, where)

    # The thread.

    def _run_thread(self) -> None:
        try:
            self._watch()
        except Exception:
            self._leave_guard()  # training goes on unwatched, rather than be killed for an error of its watchdog
            raise

    def _watch(self) -> None:
        seen = self._place
        standing_still = unanswered = 0.0
        others = Others()
        before = time.monotonic()
        while not self._closing.wait(self._turn):
            now = time.monotonic()
            late = now - before > self._seconds / 2  # stopped, and just continued: the others may need a moment, too
            passed, before = min(max(now - before, 0.0), 2 * self._turn), now
            bound = self._bound_at(*self._place)
            moved, seen = self._place is not seen, self._place
            standing_still = 0.0 if moved or late else standing_still + passed
            looking = standing_still >= LOOKING * bound
            own = self._own(standing_still, *self._standing()) if looking else self._own(standing_still)
            self._feed_guard(own, bound)
            if self._board is None:
                if standing_still >= bound:
                    self._end(self._verdict(hangs(own)), None)
                continue
            unanswered = 0.0 if late or self._board.idle else unanswered + passed
            if late:
                others.forget()
            if self._board.idle:
                others.see(self._board.answer(0.0), 4 * self._turn)
                self._board.ask(lambda own=own, looking=looking: self._exchange(own, looking))
            if not looking:
                others.forget()
                continue
            others.wait(passed)
            if others.verdict is not None:
                self._end(others.verdict, others.mute(bound))
            if standing_still < bound:
                continue
            if self._board.error is not None or unanswered >= bound / 2:
                why = self._board.error or f"no answer for {unanswered:.0f} s"
                self._end(self._verdict(cut_off(own, why)), None)
            elif others.places:
                patient = standing_still < PATIENCE * max(place.bound for place in others.places)
                line = judge(others.with_own(own), others.silent, bound, patient, self._state)
                if line is not None:
                    self._settle(line, others.mute(bound))

    def _exchange(self, own: Place, looking: bool) -> tuple[list[Place], Verdict | None]:
        self._boards.write(own)
        return self._boards.read() if looking else ([], None)

    def _standing(self) -> tuple[str, str]:
        frame = sys._current_frames().get(self._main)
        return standing(frame, self._ranks.device.type == "cuda", self._ranks.world_size > 1)

    def _state(self, place: Place) -> str:
        return guard.state_of(place.pid)[0] if place.host == self._host else ""

    def _bound_at(self, phase: str, images_seen: int) -> float:
        return bound_of(self._seconds, phase, self._first is not None and images_seen > self._first)

    def _feed_guard(self, own: Place, bound: float) -> None:
        assert self._guard.stdin is not None
        seconds = min(GUARD * bound, bound + GUARD_SECONDS)
        try:
            self._guard.stdin.write(f'{seconds} in "{own.phase}" at {own.images_seen:,} images\n'.encode())
        except (OSError, ValueError):
            return  # it was killed, or left: this thread watches alone

    # The end.

    def _verdict(self, line: str) -> Verdict:
        return Verdict(line, self._ranks.rank, self._host)

    def _settle(self, line: str, mute: list[Place]) -> NoReturn:
        """With the verdict of whoever was first."""
        own, board = self._verdict(line), self._boards
        self._end(board.demand(lambda: board.settle(own), self._grace) or own, mute)

    def _end(self, verdict: Verdict, mute: list[Place] | None) -> NoReturn:
        """Say why, write down all stacks, let the others do so, and end the process without any clearing up.

        mute: ranks that are not waited for; None for all.

        The rank that came to the verdict says it, and the first rank of each other host, where it is another log.
        """
        speak = verdict.rank == self._ranks.rank
        speak = speak or (verdict.host != self._host and os.environ.get("LOCAL_RANK", "0") == "0")
        _within(self._grace, lambda: self._write_down(verdict.line, speak))
        for place in mute or ():
            self._end_stopped(place)
        if self._board is not None and mute is not None:
            self._leave_together(self._board, self._ranks.world_size - len(mute))
        os._exit(EXIT_HUNG)

    def _end_stopped(self, place: Place) -> None:
        """A stopped rank takes no signal but this one; its launcher would wait for it for half a minute."""
        if place.host == self._host and guard.state_of(place.pid) == ("T", os.getppid()):
            os.kill(place.pid, signal.SIGKILL)

    def _write_down(self, line: str, speak: bool) -> None:
        for child in multiprocessing.active_children():
            child.kill()  # loader processes
        if speak:
            sys.stderr.write(f"error: {line}; stacks are in {self._run}/hang-*.txt\n")
            sys.stderr.flush()
        (self._run / f"hang-{self._ranks.rank}.txt").write_text(f"{line}\n\n{_stacks()}")
        if self._place[0] == LEAVING and self._ranks.rank != 0:
            return
        if status.read(self._run).get("outcome") == "running":
            status.write(self._run, "failed", line, retry=True)

    def _leave_together(self, board: Board, number: int) -> None:
        """A rank that ends breaks the exchanges of the others, whose errors would then be the ones to be read."""
        deadline = time.monotonic() + self._grace
        left = board.demand(lambda: board.count_leaving(1), self._grace)
        while left is not None and left < number and time.monotonic() < deadline:
            time.sleep(self._turn / 2)
            left = board.demand(lambda: board.count_leaving(0), self._grace)


class Others:
    """What is known of all ranks, by one that stands still."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.places: list[Place] = []
        self.silent: dict[int, float] = {}
        self.verdict: Verdict | None = None
        self._waited = 0.0

    def wait(self, seconds: float) -> None:
        self._waited += seconds

    def see(self, answer: tuple[list[Place], Verdict | None] | None, longest: float) -> None:
        """What was read, after the seconds waited since the last reading.

        No more than `longest` of them count: for the rest, it was the store that did not answer.
        """
        if answer is None or not answer[0]:
            return
        numbers = {place.rank: place.number for place in self.places}
        self.places, self.verdict = answer
        waited = min(self._waited, longest)
        for place in self.places:
            same = numbers.get(place.rank) == place.number
            self.silent[place.rank] = self.silent.get(place.rank, 0.0) + waited if same else 0.0
        self._waited = 0.0

    def mute(self, bound: float) -> list[Place]:
        return [place for place in self.places if is_mute(place, self.silent, bound)]

    def with_own(self, own: Place) -> list[Place]:
        return [own if place.rank == own.rank else place for place in self.places]


def _store_of_group() -> dist.Store:
    """A client of its own, where the ranks were joined by someone else."""
    store: Any = dist.distributed_c10d._get_default_store()
    return store.clone()


def _within(seconds: float, action: Callable[[], None]) -> None:
    """Run `action`, and wait for it no longer: it may hang on a disk that is gone."""
    thread = threading.Thread(target=action, name="writing", daemon=True)
    thread.start()
    thread.join(seconds)


def _stacks() -> str:
    """Of all threads of this process, the outermost call first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        parts.append(f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}")
    return "\n".join(parts)
