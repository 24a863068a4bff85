"""Position in the stream -> sample: an endless sequence of epochs, each visiting every sample once.

Shards are permuted by (seed, epoch), cut into windows of some shards, and samples are permuted within a window. Only
the window at hand is ever in memory, so the cost of starting anywhere depends on neither the position nor the number
of samples. Disks see long runs within a few files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from t2f_dist.data.positions import Stream, draw

NUM_CACHED = 3  # windows: prefetching reads a little ahead of training


class Place(NamedTuple):
    shard: int
    row: int


@dataclass(frozen=True)
class Window:
    """Samples that are shuffled together."""

    shards: list[int]  # [G] shard numbers
    starts: list[int]  # [G + 1] samples before each shard
    permutation: np.ndarray  # [samples] place in the window -> sample in the window

    def __len__(self) -> int:
        return len(self.permutation)

    def place(self, index: int) -> Place:
        sample = int(self.permutation[index])
        shard = bisect_right(self.starts, sample) - 1
        return Place(self.shards[shard], sample - self.starts[shard])


class Order:
    """The order in which the samples of some shards are visited.

    Args:
        counts: samples in each shard, all at least 1.
        seed: of the run.
        window_shards: shards that are shuffled together; at least the number of shards for a full shuffle.
    """

    def __init__(self, counts: Sequence[int], seed: int, window_shards: int):
        assert min(counts, default=0) > 0
        self.counts = np.asarray(counts, dtype=np.int64)
        self.num_samples = int(self.counts.sum())
        self.seed = seed
        self.window_shards = window_shards
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._windows: dict[tuple[int, int], Window] = {}

    def locate(self, position: int) -> Place:
        """The sample at a position (0 or more)."""
        window, index = self.window(position)
        return window.place(index)

    def window(self, position: int) -> tuple[Window, int]:
        """The window in which a position falls, and its index there."""
        epoch, index = divmod(position, self.num_samples)
        shards, starts = self._shards(epoch)
        number = int(np.searchsorted(starts, index, side="right")) - 1
        key = (epoch, number)
        if key not in self._windows:
            while len(self._windows) >= NUM_CACHED:
                del self._windows[min(self._windows)]
            own = shards[number * self.window_shards : (number + 1) * self.window_shards]
            inner = [0, *accumulate(self.counts[own].tolist())]
            permutation = draw(self.seed, Stream.WINDOW, epoch, number).permutation(inner[-1])
            self._windows[key] = Window(own.tolist(), inner, permutation.astype(np.uint32))
        return self._windows[key], index - int(starts[number])

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order of shards, and the samples before each of its windows."""
        if self._epoch is None or self._epoch[0] != epoch:
            shards = draw(self.seed, Stream.SHARDS, epoch).permutation(len(self.counts))
            sizes = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.window_shards))
            self._epoch = (epoch, shards, np.concatenate([[0], np.cumsum(sizes)]))
        return self._epoch[1], self._epoch[2]
