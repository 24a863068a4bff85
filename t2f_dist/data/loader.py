"""The batches of one rank, from any position on.

A map-style dataset read in the order of a batch sampler: loader processes change the speed and nothing else, and to
resume is to start the sampler at another position.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from t2f_dist.config.schema import Config
from t2f_dist.data import workers
from t2f_dist.data.batch import Batch
from t2f_dist.data.dataset import Request, Samples, Wanted
from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.data.noise import Wishes
from t2f_dist.data.prefetch import Followed, Prefetch, check_room
from t2f_dist.data.shards import default_cache
from t2f_dist.data.stream import StreamedSamples, check, is_stream
from t2f_dist.storage import url
from t2f_dist.storage.cache import Cache

CLOSE_SECONDS = 2.0  # for loader processes to end by themselves
PREFETCH_FACTOR = 2  # batches that are asked of a loader process at a time


class RankPositions(Sampler[list[Request]]):
    """A rank's share of each global batch.

    Args:
        steps: (first position, global batch size, resolution) of each step to come.
        rank, world_size: the global batch is cut into `world_size` equal runs of consecutive positions.
        num_lanes: and into so many, one of each lane; divides every batch size.
    """

    def __init__(self, steps: Iterable[tuple[int, int, int]], rank: int, world_size: int, num_lanes: int = 1):
        self.steps = steps
        self.rank = rank
        self.world_size = world_size
        self.num_lanes = num_lanes

    def __iter__(self) -> Iterator[list[Request]]:
        for first, batch_size, resolution in self.steps:
            assert batch_size % self.world_size == batch_size % self.num_lanes == first % self.num_lanes == 0
            share, run = batch_size // self.world_size, batch_size // self.num_lanes
            places = range(self.rank * share, (self.rank + 1) * share)
            yield [Request(first + i, resolution, i // run, first // self.num_lanes + i % run) for i in places]


def open_samples(config: Config, split: str | None = None) -> Samples:
    """The samples that a configuration names.

    Raises ValueError where its shards are too small for its last stage, or lack what it is conditioned on.
    """
    data = config.data
    wanted = Wanted(
        modalities=config.condition.modalities,
        mismatched=config.needs_mismatched,
        mismatch_candidates=data.mismatch_candidates,
        flip=data.flip,
        max_words=data.max_words,
        identities=config.loss.identity.used,
        wishes=Wishes(
            z_size=config.generator.z_size,
            noise_size=config.noise_size,
            mixing=any(penalty.kind == "wgan_gp" for penalty in config.loss.penalties),
            dropout=config.generator.drops_out,
            augment=config.augment is not None,
        ),
    )
    check(config)
    if is_stream(data.shards):
        resolution = config.stages[-1].resolution
        return StreamedSamples(data.shards, config.seed, wanted, resolution, data.vocabulary, data.buffer_samples)
    own = split in (None, data.split)
    samples = IndexedSamples(
        data.shards,
        split or data.split,
        config.seed,
        data.shuffle_window_shards,
        wanted,
        train_split=data.split,
        num_lanes=data.lanes if own else 1,
        cache=partial(Cache, data.cache_dir or default_cache(), data.cache_bytes),
    )
    stored, needed = samples.manifest.image_resolution, config.stages[-1].resolution
    if stored < needed or stored % needed:
        raise ValueError(
            f"{url.shown(data.shards)} holds images of {stored} pixels and the last stage draws {needed}:"
            f" shard again with --resolution {needed}, or end the stages earlier"
        )
    if own and samples.remote:
        ahead = max(stage.batch_size for stage in config.stages) * (1 + PREFETCH_FACTOR * data.num_workers)
        num_windows = 2 + bool(config.log.held_out_images)  # that which is read and the next; and of another split
        check_room(samples, data.cache_bytes, needed, ahead, num_windows)
    return samples


Step = tuple[int, int, int]  # first position, global batch size, resolution


class Unread:
    """Steps whose batches have not come out: to iterate again begins with those that were asked for in vain."""

    def __init__(self, steps: Iterable[Step]):
        self._steps = iter(steps)
        self._asked: deque[Step] = deque()

    def __iter__(self) -> Iterator[Step]:
        yield from tuple(self._asked)
        for step in self._steps:
            self._asked.append(step)
            yield step

    def came_out(self) -> None:
        """The batch of the first of them."""
        self._asked.popleft()

    @property
    def asked(self) -> list[Step]:
        return list(self._asked)


def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)


def batches(
    samples: Samples,
    steps: Iterable[Step],
    rank: int,
    world_size: int,
    num_workers: int,
    pin_memory: bool = False,
    warn: Callable[[str], None] = _warn,
) -> Generator[Batch, None, None]:
    """A rank's share of each step's global batch, in order; on the CPU. Closing the iterator ends its processes.

    Where the kernel kills a loader process, reading starts again at the first batch that has not come out, and `warn`
    gets a line: a batch is a function of its position, so the stream is the same. Tars without an index go on in
    another order, as in a run that resumes.

    Raises what `Samples` does where samples cannot be read, in one line also from a loader process: ValueError, and
    OSError where storage fails; and ValueError where loader processes are killed again and again.
    """
    unread, bound = Unread(steps), workers.Bound()
    streamed = isinstance(samples, StreamedSamples)
    careful = False  # what was asked for in vain is asked for again one by one
    while True:
        wanted, processes, ahead = (unread.asked, 1, 1) if careful else (unread, num_workers, PREFETCH_FACTOR)
        reading = _read(samples, wanted, rank, world_size, processes, ahead, pin_memory)
        try:
            for batch in reading:
                unread.came_out()
                bound.num_batches += 1
                yield batch
            if not careful:
                return
            careful = False
        except workers.LostWorkers as lost:
            if not unread.asked:  # it had nothing left to do
                careful = False
                continue
            images_seen = unread.asked[0][0]
            bound.add(lost, images_seen)
            # One process took others' batches with it, and which sample did that is not known. A stream reads others.
            careful = bound.again(PREFETCH_FACTOR * num_workers) and not streamed
            order = ", in another order" if streamed else ""
            warn(f"rank {rank}: {lost}: it is replaced, and reading goes on at {images_seen:,} images{order}")
        finally:
            reading.close()


def _read(
    samples: Samples,
    steps: Iterable[Step],
    rank: int,
    world_size: int,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
) -> Generator[Batch, None, None]:
    """As `batches`, until a loader process is lost: then none is left of them, and workers.LostWorkers is raised."""
    if isinstance(samples, StreamedSamples):
        steps, num_workers = samples.begin(steps, rank, world_size, num_workers)
    positions = RankPositions(steps, rank, world_size, len(samples.lanes))
    prefetch = Prefetch(samples) if isinstance(samples, IndexedSamples) and samples.remote else None
    loader = DataLoader(
        samples,
        batch_sampler=Followed(positions, prefetch) if prefetch else positions,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        in_order=True,
        worker_init_fn=_leave_signals_to_the_rank,
        # The loader's own seed: without it, each epoch would advance torch's global generator.
        generator=torch.Generator().manual_seed(0),
    )
    others, before = set(active_children()), signal.getsignal(signal.SIGCHLD)
    processes: set[BaseProcess] = set()
    hearing: workers.Hearing | None = None
    loading: Iterator[Batch] | None = None
    try:
        loading = iter(loader)
        processes = set(active_children()) - others
        hearing = workers.Hearing(processes, before)
        while True:
            workers.check(processes)
            hearing.waiting = True
            batch = next(loading, None)
            hearing.waiting = False
            if batch is None:
                return
            if prefetch:
                prefetch.consumed()
            yield batch
    except BaseException as error:
        if hearing:
            hearing.waiting = False
        lost = _ended(processes, error) if isinstance(error, Exception) else None
        # What frames hold would keep the loader processes, which no signal ends: Python would wait for them.
        with _impatient(processes):
            loading = None
            traceback.clear_frames(error.__traceback__)
        if lost:
            raise lost from None
        if not isinstance(error, ValueError | OSError):
            raise
        raise _in_a_line(error) from None
    finally:
        loading = None  # ends its processes, which have nothing left to do
        if hearing:
            hearing.close()
        if prefetch:
            prefetch.close()


@contextmanager
def _impatient(processes: Collection[BaseProcess]) -> Iterator[None]:
    """While loader processes are ended: those that take CLOSE_SECONDS are killed.

    torch waits five seconds for each in turn, such as one that fetches, and then asks it to end by a signal that it
    does not hear. A run that is told to go has half a minute.
    """
    timer = threading.Timer(CLOSE_SECONDS, lambda: [process.kill() for process in processes])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _in_a_line(error: ValueError | OSError) -> ValueError | OSError:
    """What a loader process raised comes with its traceback: the last line says it.

    Where storage fails it stays an OSError, for that may pass.
    """
    *_, line = str(error).strip().splitlines() or [type(error).__name__]
    kind = type(error)
    for name in (kind.__qualname__, f"{kind.__module__}.{kind.__qualname__}"):
        line = line.removeprefix(f"{name}: ")
    if not isinstance(error, OSError):
        return ValueError(line)
    return next((kept(line) for kept in (FileNotFoundError, PermissionError) if isinstance(error, kept)), OSError(line))


def _ended(processes: Collection[BaseProcess], error: Exception) -> workers.LostWorkers | None:
    """The loss of a loader process where that is why `error` came; then the others are ended too."""
    try:
        # What a process had sent is fetched from it: where it is gone, that fails in many ways.
        workers.check(processes, wait=isinstance(error, RuntimeError | OSError | EOFError))
    except workers.LostWorkers as lost:
        for process in processes:
            process.kill()  # one may wait for ever for a lock that the lost one held
        for process in processes:
            process.join()
        return lost
    return None


def _as_it_is(batch: Any) -> Batch:
    return batch  # `Samples` collates


def _leave_signals_to_the_rank(worker: int) -> None:
    """Launchers and schedulers signal every process of a job: a loader process must live until its rank has saved.

    Blocked, not ignored: torch puts a handler of its own over what is ignored.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
