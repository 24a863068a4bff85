"""Shards made by a Ray cluster: the one that RAY_ADDRESS names, or one of this machine alone.

https://docs.ray.io. Every node must reach the corpus and `out` at the same paths, or they are URLs, and have this
package of the same version installed. A node that does not find the plan of the build in `out` makes nothing of it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from t2f_dist.shard.work import Done, Failed, Fault, Maker, SentJob, Task, fault

_AHEAD = 4  # tasks a core that are handed to Ray at once: it would hold all of them in its store

_ANSWER_SECONDS = 10


def run(
    tasks: Sequence[Task], job: SentJob, workers: int, retries: int, advance: Callable[[int], object]
) -> Iterator[Done | Failed]:
    """As `t2f_dist.shard.engine.run`. A task asks for one core; of a local cluster there are `workers`.

    Raises:
        ValueError: Ray is not installed, or as there.
        OSError: the cluster cannot be reached.
    """
    ray = _imported()
    _join(ray, workers)
    try:
        yield from _collected(ray, tasks, job, retries, advance)
    finally:
        ray.shutdown()


def _imported() -> Any:
    # Before the import, which reads them: nothing is sent anywhere, and no token is written into the home folder.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install 't2f-dist[ray]'") from None
    return ray


def _join(ray: Any, workers: int) -> None:
    address = os.environ.get("RAY_ADDRESS")
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if address and re.fullmatch(r"[^/:]+:[0-9]{1,5}", address):
        # Ray ends the whole program where nobody answers.
        host, _, port = address.partition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise OSError(f"no Ray cluster answers at {address} (RAY_ADDRESS): {error}") from None
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                object_store_memory=200 << 20,
                **quiet,
            )
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        where = f"the Ray cluster at {address}" if address else "a local Ray cluster"
        raise OSError(f"{where} cannot be used: {' '.join(str(error).split())[:300]}") from None


def _collected(
    ray: Any, tasks: Sequence[Task], job: SentJob, retries: int, advance: Callable[[int], object]
) -> Iterator[Done | Failed]:
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    # A worker that dies is Ray's to replace; an error of the system is an exception, which it is told to try again.
    make = ray.remote(num_cpus=1, max_retries=retries, retry_exceptions=[OSError, MemoryError])(_make)
    folder = os.getcwd()
    shared = ray.put(job)
    rest = iter(tasks)
    running: dict[Any, Task] = {}
    try:
        while True:
            while len(running) < cores * _AHEAD and (task := next(rest, None)) is not None:
                running[make.remote(task, shared, folder)] = task
            if not running:
                return
            for reference in ray.wait(list(running), num_returns=1)[0]:
                task = running.pop(reference)
                found = _result(ray, reference)
                if found is not None and found.refusal:
                    raise ValueError(found.reason)
                advance(task.num_images)
                yield Failed(task.name, found.reason, retries + 1 if found.again else 1) if found else Done(task.name)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _result(ray: Any, reference: Any) -> Fault | None:
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        return fault(cause) if isinstance(cause, Exception) else Fault(" ".join(str(error).split())[-300:])
    except ray.exceptions.RayError as error:  # its process or node died, once too often
        return Fault(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", again=True)
    return None


_opened: tuple[SentJob, Maker] | None = None  # of a worker process: the encoder is loaded once


def _make(task: Task, job: SentJob, folder: str) -> None:
    """In a worker: paths are relative to the folder of the one who called.

    Raises as `Maker.make`; OSError, which names the node, where it does not see the build that it is to work on.
    """
    global _opened
    if _opened is None or _opened[0] != job:
        try:
            _enter(folder, job)
            job.check()
        except OSError as error:
            found = " ".join((error.strerror or str(error)).split())
            where = f"{error.filename}: " if error.filename else ""
            raise OSError(
                f"the node {socket.gethostname()} does not see what the others see: {where}{found}; every node needs"
                " the corpus and --out at the same paths, or as URLs"
            ) from None
        _opened = job, job.open()
    _opened[1].make(task, lambda: None)


def _enter(folder: str, job: SentJob) -> None:
    try:
        os.chdir(folder)
    except OSError:
        if job.is_relative:
            raise
