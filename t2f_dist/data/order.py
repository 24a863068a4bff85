"""Position in the stream -> sample: an endless sequence of epochs, each visiting every sample once.

Shards are permuted by (seed, epoch), cut into windows of some shards, and samples are permuted within a window. Of
samples only the permutations of a few windows are in memory, 4 bytes each; of shards an epoch's order. So the cost of
starting anywhere does not depend on the position, and hardly on the number of samples. Disks see long runs within a
few files.

With lanes, the shards are dealt out to so many lanes, once for the run, and each lane is an order of its own: a rank
reads the lanes of its part of the global batch and no other shards, whatever the number of ranks. A batch is made of
equal runs from each lane; since lanes go round on their own, one whose samples are fewer comes back to them earlier.
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
        numbers: of the shards, where they are not 0, 1, 2 ...
        lane: whose order it is.
    """

    def __init__(
        self, counts: Sequence[int], seed: int, window_shards: int, numbers: Sequence[int] | None = None, lane: int = 0
    ):
        assert min(counts, default=0) > 0
        self.counts = np.asarray(counts, dtype=np.int64)
        self.numbers = np.arange(len(self.counts)) if numbers is None else np.asarray(numbers)
        self.lane = lane
        self.num_samples = int(self.counts.sum())
        self.seed = seed
        self.window_shards = window_shards
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._windows: dict[tuple[int, int], Window] = {}
        self._last = (0, Window([], [0], np.zeros(0, np.uint32)))  # most positions fall where the last one fell

    def locate(self, position: int) -> Place:
        """The sample at a position (0 or more)."""
        window, index = self.window(position)
        return window.place(index)

    def window(self, position: int) -> tuple[Window, int]:
        """The window in which a position falls, and its index there."""
        first, window = self._last
        if 0 <= position - first < len(window.permutation):
            return window, position - first
        epoch, index = divmod(position, self.num_samples)
        shards, starts = self._shards(epoch)
        number = int(np.searchsorted(starts, index, side="right")) - 1
        key = (epoch, number)
        if key not in self._windows:
            while len(self._windows) >= NUM_CACHED:
                del self._windows[min(self._windows)]
            own = shards[number * self.window_shards : (number + 1) * self.window_shards]
            inner = [0, *accumulate(self.counts[own].tolist())]
            permutation = draw(self.seed, Stream.WINDOW, epoch, number, self.lane).permutation(inner[-1])
            self._windows[key] = Window(self.numbers[own].tolist(), inner, permutation.astype(np.uint32))
        inside = index - int(starts[number])
        self._last = (position - inside, self._windows[key])
        return self._windows[key], inside

    def shards_from(self, position: int, num_windows: int) -> list[list[int]]:
        """The shards of the window at a position and of those that come after it, in the order of their need."""
        found: list[list[int]] = []
        while len(found) < num_windows:
            epoch, index = divmod(position, self.num_samples)
            shards, starts = self._shards(epoch)
            number = int(np.searchsorted(starts, index, side="right")) - 1
            found.append(self.numbers[shards[number * self.window_shards : (number + 1) * self.window_shards]].tolist())
            position = epoch * self.num_samples + int(starts[number + 1])
        return found

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's order of shards, and the samples before each of its windows."""
        known = self._epoch
        if known is None or known[0] != epoch:
            shards = draw(self.seed, Stream.SHARDS, epoch, lane=self.lane).permutation(len(self.counts))
            sizes = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.window_shards))
            known = self._epoch = (epoch, shards, np.concatenate([[0], np.cumsum(sizes)]))
        return known[1], known[2]


def lanes(counts: Sequence[int], seed: int, window_shards: int, num: int) -> list[Order]:
    """The orders of `num` lanes, at most one a shard; of one, the order of all shards."""
    if num == 1:
        return [Order(counts, seed, window_shards)]
    assert num <= len(counts)
    dealt = draw(seed, Stream.LANES, 0).permutation(len(counts))
    hands = [sorted(dealt[lane::num].tolist()) for lane in range(num)]
    return [
        Order([counts[number] for number in hand], seed, window_shards, hand, lane) for lane, hand in enumerate(hands)
    ]
