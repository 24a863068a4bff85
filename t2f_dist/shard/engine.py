"""How the shards of a build are made: here, by processes of this machine, or by a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Literal

from t2f_dist.shard.work import Done, Failed, Job, Maker, SentJob, Task, fault

Engine = Literal["process", "ray"]


def run(
    engine: Engine,
    tasks: Sequence[Task],
    job: Job,
    workers: int,
    retries: int,
    advance: Callable[[int], object],
    maker: Maker | None = None,
) -> Generator[Done | Failed, None, None]:
    """Make shards, in any order; what became of each as soon as it is known.

    Args:
        retries: how often a shard is tried again whose process was killed, or that met an error of the system.
        advance: is called with the number of images that came to an end, which is negative where some are begun again.
        workers: processes; 1: this one, in which a want of memory ends the command.
        maker: where this process has opened the job already.

    Raises:
        ValueError: the corpus does not fit the recipe, or Ray is not installed.
        OSError: no worker can be started.
    """
    if engine == "ray":
        from t2f_dist.shard import cluster

        assert isinstance(job, SentJob)
        yield from cluster.run(tasks, job, workers, retries, advance)
    elif workers == 1:
        yield from _here(tasks, job, retries, advance, maker)
    else:
        from t2f_dist.shard import pool

        yield from pool.run(tasks, job, workers, retries, advance)


def _here(
    tasks: Sequence[Task], job: Job, retries: int, advance: Callable[[int], object], maker: Maker | None
) -> Generator[Done | Failed, None, None]:
    if not tasks:
        return
    maker = maker or job.open()
    for task in tasks:
        tries = 0
        while True:
            images = 0

            def count() -> None:
                nonlocal images
                images += 1
                advance(1)

            tries += 1
            try:
                maker.make(task, count)
            except (OSError, MemoryError) as error:
                advance(-images)
                if tries <= retries:
                    continue
                advance(task.num_images)
                yield Failed(task.name, fault(error).reason, tries)
            else:
                yield Done(task.name)
            break
