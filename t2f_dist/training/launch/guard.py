"""A small process beside a rank, for the hang that the rank cannot see: a thread that keeps the interpreter for ever.

    python -I -S guard.py RANK RUN STACKS

No thread of such a rank runs any more, so that nothing in it can end it. A timer of the C library could, and would also
when a job is stopped for a night and continued: it counts hours in which nothing could move. This process is stopped
with the job, counts its own turns, and waits while its rank is stopped.

The rank writes lines to the standard input, "SECONDS PLACE". Where none comes for SECONDS of the last one, this process
asks for the stacks with a signal that needs no interpreter (faulthandler's), which come into the open file STACKS,
writes them to RUN/hang-RANK.txt, and kills the rank. It ends when the rank does.

Nothing but a little of the standard library is imported, so that it starts in some milliseconds.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time

TURNS = 20  # within the bound, at least
TURN_SECONDS = 0.5  # at most: whether the rank is still there is seen at a turn
STOPPED = ("T", "t")  # by a signal, by a debugger
STACK_SECONDS = 1.0  # for the stacks to be written


def watch(rank: int, run: str, stacks: int) -> None:
    parent = os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the rank: it may want time to save
    seconds, place = float("inf"), ""
    silent, turn = 0.0, TURN_SECONDS
    before = time.monotonic()
    while os.getppid() == parent:
        ready, _, _ = select.select([0], [], [], turn)
        now = time.monotonic()
        passed, before = min(max(now - before, 0.0), 2 * turn), now  # a job that was stopped has not hung meanwhile
        if ready:
            content = os.read(0, 1 << 16)
            if not content:
                return
            last = content.splitlines()[-1].decode(errors="replace")  # each is written whole, and is short
            number, _, place = last.partition(" ")
            seconds, silent = float(number), 0.0
            turn = min(TURN_SECONDS, seconds / TURNS)
        elif state_of(parent)[0] not in STOPPED:
            silent += passed
        if silent >= seconds and os.getppid() == parent:
            _end(parent, rank, run, stacks, place, silent)
            return


def state_of(pid: int) -> tuple[str, int]:
    """The letter by which the kernel names a process's state, and its parent; ("", 0) where there is none such."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            return state.decode(), int(parent)
    except (OSError, ValueError):
        return "", 0


def _end(pid: int, rank: int, run: str, stacks: int, place: str, seconds: float) -> None:
    os.kill(pid, signal.SIGUSR2)
    time.sleep(STACK_SECONDS)
    text = os.pread(stacks, 1 << 20, 0).decode(errors="replace")
    # The main thread is the last one, its innermost call the first.
    calls = re.findall(r'File "(?:.*/)?([^"/]+)", line (\d+) in (\S+)', text.rpartition("(most recent call first)")[2])
    where = " < ".join(f"{file}:{line} in {name}" for file, line, name in calls[:4])
    line = f"rank {rank} hangs {place}: a thread of it keeps the interpreter since {seconds:.0f} s"
    line += f"; the main thread is at {where}" if where else ""
    try:
        sys.stderr.write(f"error: {line}; it is killed, its stacks are in {run}/hang-{rank}.txt\n")
        sys.stderr.flush()
        _write_down(run, rank, line, text)
    finally:
        os.kill(pid, signal.SIGKILL)


def _write_down(run: str, rank: int, line: str, stacks: str) -> None:
    with open(f"{run}/hang-{rank}.txt", "w") as file:
        file.write(f"{line}\n\n{stacks}")
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from t2f_dist.training.run import status

    if status.read(Path(run)).get("outcome") == "running":
        status.write(Path(run), "failed", line, retry=True)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
