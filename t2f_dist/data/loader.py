"""The batches of one rank, from any position on.

A map-style dataset read in the order of a batch sampler: loader processes change the speed and nothing else, and to
resume is to start the sampler at another position.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Generator, Iterable, Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from t2f_dist.config.schema import Config
from t2f_dist.data.batch import Batch, collate
from t2f_dist.data.dataset import Samples, Wanted


class RankPositions(Sampler[list[tuple[int, int]]]):
    """A rank's share of each global batch: lists of (position, resolution).

    Args:
        steps: (first position, global batch size, resolution) of each step to come.
        rank, world_size: the global batch is cut into `world_size` equal runs of consecutive positions.
    """

    def __init__(self, steps: Iterable[tuple[int, int, int]], rank: int, world_size: int):
        self.steps = steps
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for first, batch_size, resolution in self.steps:
            assert batch_size % self.world_size == 0
            share = batch_size // self.world_size
            start = first + self.rank * share
            yield [(position, resolution) for position in range(start, start + share)]


def open_samples(config: Config, split: str | None = None) -> Samples:
    """The samples that a configuration names.

    Raises ValueError where its shards are too small for its last stage, or lack what it is conditioned on.
    """
    data = config.data
    wanted = Wanted(
        modalities=config.condition.modalities,
        mismatched=config.needs_mismatched,
        mismatch_candidates=data.mismatch_candidates,
        z_size=config.generator.z_size,
        noise_size=config.noise_size,
        flip=data.flip,
        max_words=data.max_words,
        identities=config.loss.identity.used,
        dropout=config.generator.drops_out,
        augment=config.augment is not None,
    )
    samples = Samples(
        data.shards, split or data.split, config.seed, data.shuffle_window_shards, wanted, train_split=data.split
    )
    stored, needed = samples.manifest.image_resolution, config.stages[-1].resolution
    if stored < needed or stored % needed:
        raise ValueError(
            f"{data.shards} holds images of {stored} pixels and the last stage draws {needed}:"
            f" shard again with --resolution {needed}, or end the stages earlier"
        )
    return samples


def batches(
    samples: Samples,
    steps: Iterable[tuple[int, int, int]],
    rank: int,
    world_size: int,
    num_workers: int,
    pin_memory: bool = False,
) -> Generator[Batch, None, None]:
    """A rank's share of each step's global batch, in order; on the CPU. Closing the iterator ends its processes.

    Raises ValueError where samples cannot be read, as `Samples` does, also from a loader process.
    """
    loader = DataLoader(
        samples,
        batch_sampler=RankPositions(steps, rank, world_size),
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        in_order=True,
        worker_init_fn=_leave_signals_to_the_rank,
        # The loader's own seed: without it, each epoch would advance torch's global generator.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        yield from loader
    except BaseException as error:
        # What its frames hold would keep the loader processes, which no signal ends: Python would wait for them.
        traceback.clear_frames(error.__traceback__)
        if not isinstance(error, ValueError | OSError):
            raise
        # From a process it comes with its traceback: the last line says it.
        *_, line = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(line.removeprefix("ValueError: ")) from None


def _leave_signals_to_the_rank(worker: int) -> None:
    """Launchers and schedulers signal every process of a job: a loader process must live until its rank has saved.

    Blocked, not ignored: torch puts a handler of its own over what is ignored.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
