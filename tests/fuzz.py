"""Thousands of changed files, read by every reader: `python -m tests.fuzz --num 10000 --seed 0`.

Prints how often what became of which victim, and exits with 1 at the first that was neither read rightly nor refused in
one line, with the command that repeats it. Each is read in a process of bounded memory, and within 30 seconds.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter, defaultdict
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.shard.mutation import drawn
from tests.shard.victims import Victims

MEMORY_BYTES = 4 << 30
SECONDS = 30
PROCESSES = 2


class Hang(BaseException):
    pass


def _hang(*_: object) -> None:
    raise Hang


def one(victims: Victims, name: str, seed: int) -> str:
    """What becomes of a victim; raises where it is neither right nor refused."""
    signal.alarm(SECONDS)
    try:
        return victims.names[name](drawn(random.Random(f"{name} {seed}")))
    finally:
        signal.alarm(0)


def serve(connection: Connection, seeds: range, only: str | None) -> None:
    """In a process of its own: each seed is announced before it is tried, so that a crash is told too."""
    # Torch, which reading as training does loads, takes gigabytes of addresses that are no memory: before the bound.
    importlib.import_module("t2f_dist.data.indexed")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, _hang)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # Pillow and NumPy warn of odd files; here all are odd
    folder = tempfile.mkdtemp(prefix="t2f-dist-fuzz-")
    try:
        victims = Victims(Path(folder))
        names = [name for name in victims.names if only in (None, name)]
        for seed in seeds:
            name = names[seed % len(names)]
            connection.send(("try", name, seed))
            try:
                connection.send(("outcome", name, one(victims, name, seed)))
            except Hang:
                connection.send(("escape", name, f"nothing after {SECONDS} s"))
            except BaseException:
                connection.send(("escape", name, traceback.format_exc()))
    finally:
        shutil.rmtree(folder)


def run(num: int, first: int, only: str | None = None) -> tuple[dict[str, Counter[str]], list[str]]:
    """Victim -> how often what became of it; and of each escape, what happened and how it is repeated."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    escapes: list[str] = []
    context = multiprocessing.get_context("spawn")
    started: dict[Connection, BaseProcess] = {}
    for number in range(PROCESSES):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, range(first + number, first + num, PROCESSES), only))
        process.start()
        theirs.close()
        started[ours] = process
    last = dict.fromkeys(started, ("", 0))
    while started and not escapes:
        for connection in wait(list(started)):
            assert isinstance(connection, Connection)
            try:
                kind, name, value = connection.recv()
            except EOFError:
                process = started.pop(connection)
                process.join()
                if process.exitcode:
                    escapes.append(_told(*last[connection], f"the process ended with {process.exitcode}"))
                continue
            if kind == "try":
                last[connection] = name, value
            elif kind == "outcome":
                table[name][value] += 1
            else:
                escapes.append(_told(*last[connection], value))
    for process in started.values():
        process.terminate()
        process.join()
    return table, escapes


def _told(name: str, seed: int, what: str) -> str:
    return f"{name}, seed {seed}: {what}\nagain: python -m tests.fuzz --only {name!r} --repeat {seed}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=10_000, help="files in all")
    parser.add_argument("--seed", type=int, default=0, help="the first; they go up by one")
    parser.add_argument("--only", help="one victim")
    parser.add_argument("--repeat", type=int, help="that seed alone, of --only, in this process")
    arguments = parser.parse_args()
    if arguments.repeat is not None:
        warnings.simplefilter("ignore")  # Pillow and NumPy warn of odd files; here all are odd
        signal.signal(signal.SIGALRM, _hang)
        with tempfile.TemporaryDirectory() as folder:
            print(one(Victims(Path(folder)), arguments.only, arguments.repeat))
        return 0
    table, escapes = run(arguments.num, arguments.seed, arguments.only)
    for name, counts in sorted(table.items()):
        print(
            f"{name:<26}{sum(counts.values()):>6}  ", "  ".join(f"{outcome} {n}" for outcome, n in counts.most_common())
        )
    print(f"{sum(sum(counts.values()) for counts in table.values())} files, {len(escapes)} escapes")
    for escape in escapes:
        print(escape, file=sys.stderr)
    return 1 if escapes else 0


if __name__ == "__main__":
    sys.exit(main())
