"""Worker processes of one machine: each makes one shard at a time, and one that is killed costs no other its work."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess

from t2f_dist.shard.work import Done, Failed, Fault, Job, Task, fault
from t2f_dist.storage.worker import belong_to_parent

_SECONDS = 0.5  # between two counts of images that a worker sends


def run(
    tasks: Sequence[Task], job: Job, workers: int, retries: int, advance: Callable[[int], object]
) -> Iterator[Done | Failed]:
    """As `t2f_dist.shard.engine.run`, with as many processes as `workers` says."""
    pool = _Pool(job, retries, advance)
    try:
        yield from pool.run(deque(tasks), workers)
    finally:
        pool.close()


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    task: Task | None = None
    idle: bool = False  # ready for a shard
    images: int = 0  # of its task, so far


class _Pool:
    def __init__(self, job: Job, retries: int, advance: Callable[[int], object]):
        # spawn, not fork: the same on every platform, and safe whatever threads the caller has
        self.context: SpawnContext = multiprocessing.get_context("spawn")
        self.job, self.retries, self.advance = job, retries, advance
        self.workers: dict[Connection, _Worker] = {}
        self.tries: Counter[str] = Counter()
        self.stillborn = 0  # workers that died before they took a shard

    def run(self, waiting: deque[Task], workers: int) -> Iterator[Done | Failed]:
        while waiting or any(worker.task for worker in self.workers.values()):
            for worker in self.workers.values():
                if worker.idle and waiting:
                    self._give(worker, waiting.popleft())
            busy = sum(worker.task is not None for worker in self.workers.values())
            while len(self.workers) < min(workers, busy + len(waiting)):
                self._start()
            for connection in wait(list(self.workers)):
                assert isinstance(connection, Connection)
                worker = self.workers[connection]
                try:
                    kind, value = connection.recv()
                except (EOFError, OSError):
                    yield from self._buried(worker, waiting)
                    continue
                if kind == "images":
                    self._count(worker, value)
                    continue
                if kind == "fault":
                    yield from self._failed(worker, value, waiting)
                elif worker.task is not None:
                    yield Done(worker.task.name)
                worker.task, worker.idle = None, True

    def _start(self) -> None:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=_serve, args=(theirs, self.job), daemon=True)
        # An interrupt is the parent's to hear, also while the worker still loads its modules and cannot say so itself.
        resource_tracker.ensure_running()  # which lets interrupts through when it is started
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the end of the worker is the end of the connection
        self.workers[ours] = _Worker(process, ours)

    def _give(self, worker: _Worker, task: Task) -> None:
        worker.task, worker.idle, worker.images = task, False, 0
        try:
            worker.connection.send(task)
        except OSError:
            return  # it is dead, which its connection says too

    def _count(self, worker: _Worker, images: int) -> None:
        worker.images += images
        self.advance(images)

    def _buried(self, worker: _Worker, waiting: deque[Task]) -> Iterator[Failed]:
        worker.process.join()
        worker.connection.close()
        del self.workers[worker.connection]
        code = worker.process.exitcode or 0
        reason = f"its process ended with exit code {code}"
        if code < 0:
            reason = f"its process was killed by {_signal(-code)}"
            reason += ", most likely for want of memory: use fewer --workers" if code == -signal.SIGKILL else ""
        if worker.task is None:
            self.stillborn += 1
            if self.stillborn > self.retries:
                raise OSError(f"no worker can be started: {reason.removeprefix('its ')}")
            return
        yield from self._failed(worker, Fault(reason, again=True), waiting)

    def _failed(self, worker: _Worker, found: Fault, waiting: deque[Task]) -> Iterator[Failed]:
        if found.refusal or worker.task is None:
            raise ValueError(found.reason) if found.refusal else OSError(found.reason)
        self.advance(-worker.images)
        name = worker.task.name
        self.tries[name] += 1
        if found.again and self.tries[name] <= self.retries:
            waiting.appendleft(worker.task)
        else:
            self.advance(worker.task.num_images)
            yield Failed(name, found.reason, self.tries[name])

    def close(self) -> None:
        for worker in self.workers.values():
            if worker.task is None:
                try:
                    worker.connection.send(None)
                    continue
                except OSError:
                    pass  # dead already
            worker.process.kill()
        for worker in self.workers.values():
            worker.process.join()
            worker.connection.close()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _serve(connection: Connection, job: Job) -> None:
    """In the worker: make what comes, until None does."""
    belong_to_parent()
    images, told = 0, time.monotonic()

    def advance() -> None:
        nonlocal images, told
        images += 1
        if time.monotonic() - told > _SECONDS:
            connection.send(("images", images))
            images, told = 0, time.monotonic()

    try:
        maker = job.open()
    except Exception as error:  # said by the parent
        connection.send(("fault", fault(error)))
        return
    connection.send(("ready", None))
    while (task := connection.recv()) is not None:
        try:
            maker.make(task, advance)
        except Exception as error:  # reported with the name of its shard
            connection.send(("fault", fault(error)))
        else:
            connection.send(("images", images))
            connection.send(("done", None))
        images = 0
