"""Two ranks that live as long as the test session and run one job after another.

A process that imports torch and joins a group takes seconds; most tests of distributed code need milliseconds of it.
So the ranks are started once and given jobs: `pair.run(function, *args)` calls `function(rank, world_size, *args)` in
both and returns `[result of rank 0, result of rank 1]`. The function must be at the top level of its module, arguments
and results must be picklable, and a job must leave no collective half done.
"""

import faulthandler
import io
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

START_SECONDS = 120.0  # importing torch on a busy machine
GRACE_SECONDS = 3.0  # for the other rank, once one has failed


class RankFailure(RuntimeError):
    """A job failed in a rank: its traceback, or where it stood when its time was up. `by_rank`: rank -> that text."""

    def __init__(self, summary: str, by_rank: dict[int, str]):
        self.by_rank = by_rank
        super().__init__("\n".join([summary, *(f"--- rank {rank}\n{text}" for rank, text in sorted(by_rank.items()))]))


class Reply(NamedTuple):
    ok: bool
    payload: Any  # the result, or the traceback


def _serve(rank: int, world_size: int, folder: str, connection: Connection) -> None:
    """The life of a rank: join the group, then one job after another until told to stop."""
    # SIGABRT, sent to a rank whose time is up, writes where every thread stands.
    stack = Path(folder, f"stack-{rank}").open("w")  # noqa: SIM115 (open until the process ends)
    faulthandler.enable(stack, all_threads=True)
    # What torchrun sets, for jobs that build an Accelerator.
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "OMP_NUM_THREADS": "1",
    }
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    connection.send_bytes(pickle.dumps(Reply(True, None)))
    while True:
        job = connection.recv_bytes()
        try:
            unpickled = pickle.loads(job)
            if unpickled is None:
                break
            function, args = unpickled
            reply = pickle.dumps(Reply(True, function(rank, world_size, *args)))
        except BaseException:  # SystemExit too: a job that exits is a failure to be reported
            reply = pickle.dumps(Reply(False, traceback.format_exc()))
        connection.send_bytes(reply)
    dist.barrier()
    dist.destroy_process_group()


class Pair:
    """Ranks started at the first job and again after a failed one, since a failed job may leave a collective open.

    The ranks share a gloo group over loopback, with one thread each.
    """

    def __init__(self, world_size: int = 2):
        self.world_size = world_size
        self._ranks: list[tuple[SpawnProcess, Connection]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 60.0) -> list[Any]:
        """`function(rank, world_size, *args)` in every rank; the results in the order of the ranks.

        timeout: seconds for the job; when they are over the ranks are killed and `RankFailure` says where each stood.
        Raises `RankFailure` also for an exception in a rank, with its traceback, and for a rank that died.
        """
        job = pickle.dumps((function, args))
        if not self._ranks:
            self._start()
        try:
            self._send(job)
        except OSError:
            codes = [process.exitcode for process, _ in self._ranks]
            self._kill()
            raise RankFailure(
                f"the ranks were ended between jobs, by exit codes {codes}: by another test?", {}
            ) from None
        return self._gather(timeout, f"{function.__module__}.{function.__qualname__}")

    def _send(self, job: bytes) -> None:
        for _, connection in self._ranks:
            connection.send_bytes(job)

    def close(self) -> None:
        """Let the ranks leave the group; kill those that do not."""
        for _, connection in self._ranks:
            try:
                connection.send_bytes(pickle.dumps(None))
            except OSError:  # a rank that is gone: nothing to tell it
                continue
        deadline = time.monotonic() + GRACE_SECONDS
        for process, _ in self._ranks:
            process.join(max(0.0, deadline - time.monotonic()))
        self._kill()

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        context = multiprocessing.get_context("spawn")
        for rank in range(self.world_size):
            ours, theirs = context.Pipe()
            arguments = (rank, self.world_size, self._folder.name, theirs)
            process = context.Process(target=_serve, args=arguments, name=f"rank-{rank}", daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            self._ranks.append((process, ours))
        self._gather(START_SECONDS, "the start of the ranks")

    def _gather(self, timeout: float, what: str) -> list[Any]:
        """One reply of each rank, or the ranks killed and `RankFailure`."""
        replies: dict[int, Reply] = {}
        deadline = time.monotonic() + timeout
        while len(replies) < self.world_size:
            waiting = {self._ranks[rank][1]: rank for rank in range(self.world_size) if rank not in replies}
            ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting[connection]
                try:
                    replies[rank] = pickle.load(io.BytesIO(connection.recv_bytes()))
                except (EOFError, OSError):
                    process = self._ranks[rank][0]
                    process.join(GRACE_SECONDS)
                    replies[rank] = Reply(False, f"the process died, exit code {process.exitcode}\n{self._stack(rank)}")
                if not replies[rank].ok:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        failed = {rank: reply.payload for rank, reply in replies.items() if not reply.ok}
        late = [rank for rank in range(self.world_size) if rank not in replies]
        if not failed and not late:
            return [replies[rank].payload for rank in range(self.world_size)]
        self._abort(late)
        stood = {rank: f"did not answer; it stood at\n{self._stack(rank)}" for rank in late}
        self._kill()
        if failed:
            raise RankFailure(f"{what} failed in rank {', '.join(map(str, sorted(failed)))}", failed | stood)
        raise RankFailure(f"{what} was not done after {timeout:g} s in rank {', '.join(map(str, late))}", stood)

    def _abort(self, ranks: list[int]) -> None:
        for rank in ranks:
            process = self._ranks[rank][0]
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGABRT)
                process.join(GRACE_SECONDS)

    def _stack(self, rank: int) -> str:
        assert self._folder is not None
        path = Path(self._folder.name, f"stack-{rank}")
        return path.read_text() if path.exists() else ""

    def _kill(self) -> None:
        for process, connection in self._ranks:
            process.kill()
            process.join()
            process.close()
            connection.close()
        self._ranks = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
