"""Remote shards are fetched before they are needed: those of the window that is read, then those of the next.

Each rank follows the batches that are asked of its loader. What it will need it pins in the node's cache; a thread
fetches it in the order of need and skips what another rank fetches already, so that the ranks of a node share the work.
Loader processes open shards through the same cache, where they wait for a fetch under way and never repeat it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from torch.utils.data import Sampler

from t2f_dist.data.dataset import Request
from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.data.order import Order
from t2f_dist.storage import url
from t2f_dist.storage.cache import Remote
from t2f_dist.storage.space import Pins

LOOK_SECONDS = 0.5  # between looks whether space was freed, or another process is done
CLOSE_SECONDS = 5.0


class Stretch(NamedTuple):
    """What a batch takes of a lane: turns from `first` to `last`."""

    first: int
    last: int


class Prefetch:
    """Call `issued` and `consumed` from one thread, the one that drives the loader; then `close`.

    What cannot be fetched is left to the loader process that will need it: it tries again, and raises.
    """

    def __init__(self, samples: IndexedSamples):
        self.samples = samples
        self._batches: deque[tuple[int, dict[int, Stretch]]] = deque()  # issued and not consumed, with the resolution
        self._known: object = None
        self._changed = threading.Condition()
        self._plan: list[Remote] = []
        self._turn = 0  # counts plans
        self._closed = False
        self._thread: threading.Thread | None = None

    def issued(self, requests: Sequence[Request]) -> None:
        """A batch is asked of the loader."""
        stretches: dict[int, Stretch] = {}
        for request in requests:
            first = stretches[request.lane].first if request.lane in stretches else request.turn
            stretches[request.lane] = Stretch(first, request.turn)
        self._batches.append((requests[0].resolution, stretches))
        self._follow()
        if self._thread is None:  # not before: loader processes are forked by now
            self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
            self._thread.start()

    def consumed(self) -> None:
        """The batch that was issued first has come out of the loader."""
        self._batches.popleft()
        if self._batches:
            self._follow()

    def close(self) -> None:
        """Fetch no more and pin nothing; a piece that is under way is cut off."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)  # where a server does not answer, the process need not wait for it

    def _follow(self) -> None:
        """Plan anew where the windows in use, or the files that are read of them, are others."""
        oldest, newest = self._batches[0][1], self._batches[-1][1]
        small_only = not any(self.samples.needs_tar(resolution) for resolution in {each[0] for each in self._batches})
        ends = {
            lane: (self._shards(lane, oldest[lane].first), self._shards(lane, newest[lane].last)) for lane in oldest
        }
        if (ends, small_only) == self._known:
            return
        self._known = (ends, small_only)
        by_lane = [_until(self.samples.orders[lane], oldest[lane].first, last) for lane, (_, last) in ends.items()]
        by_turn = [window for windows in zip_longest(*by_lane, fillvalue=[]) for window in windows]
        numbers = dict.fromkeys(number for window in by_turn for number in window)
        plan = [Remote(*file) for number in numbers for file in self.samples.shards.files(number, small_only)]
        with self._changed:
            self._plan, self._turn = plan, self._turn + 1
            self._changed.notify()

    def _shards(self, lane: int, turn: int) -> list[int]:
        return self.samples.orders[lane].shards_from(turn, 1)[0]

    def _run(self) -> None:
        """The life of the thread."""
        try:
            pins = self.samples.shards.cache.pins()
            try:
                self._fetch(pins)
            finally:
                pins.close()
        except OSError:
            return  # of the cache's own disk: the loader processes meet it too, and raise

    def _fetch(self, pins: Pins) -> None:
        settled: set[str] = set()  # of this plan: here, or not to be had
        turn = 0
        while not self._closed:
            with self._changed:
                plan, before, turn = self._plan, turn, self._turn
            if before != turn:
                settled.clear()
                pins.set(remote.key for remote in plan)
            again = False
            for remote in plan:
                if self._closed or self._turn != turn:
                    break
                if remote.key in settled:
                    continue
                try:
                    outcome = self.samples.shards.cache.prefetch(*remote, going=lambda: not self._closed)
                except (ValueError, OSError):
                    settled.add(remote.key)  # the loader process that will need it tries again, and raises
                    continue
                if outcome == "full":
                    again = True
                    break
                if outcome == "here":
                    settled.add(remote.key)
                else:
                    again = True
            with self._changed:
                if not self._closed and self._turn == turn:
                    self._changed.wait(LOOK_SECONDS if again else None)


class Followed(Sampler[list[Request]]):
    """A batch sampler, whose batches are prefetched as they are issued."""

    def __init__(self, sampler: Sampler[list[Request]], prefetch: Prefetch):
        self.sampler = sampler
        self.prefetch = prefetch

    def __iter__(self) -> Iterator[list[Request]]:
        for requests in self.sampler:
            self.prefetch.issued(requests)
            yield requests


def check_room(samples: IndexedSamples, max_bytes: int, resolution: int, samples_ahead: int, num_windows: int) -> None:
    """Raise ValueError where a cache does not hold the shards that are in use at a time, of the largest ones.

    Args:
        resolution: the highest that is read.
        samples_ahead: of training, in the loader processes of all ranks together.
        num_windows: in use at a time, where `samples_ahead` are few: that which is read and the next.
    """
    shards, num_lanes, window_shards = samples.shards, len(samples.orders), samples.order.window_shards
    small_only = not samples.needs_tar(resolution)
    beside = url.local(shards.place) is None  # else tars alone are remote
    sizes = sorted(
        beside * (shard.index_bytes + shard.small_bytes) + (not small_only) * shard.bytes for shard in shards.listed
    )
    num_windows += samples_ahead // (num_lanes * window_shards * min(shard.num_samples for shard in shards.listed))
    num_shards = min(num_windows * window_shards * _lanes_of_node(num_lanes), len(sizes))
    needed = sum(sizes[-num_shards:])
    if needed > max_bytes:
        raise ValueError(
            f"data.cache_bytes {max_bytes:,} is too small: the {num_shards} shards that are in use at a time take up to"
            f" {needed:,} bytes; raise it, or lower data.shuffle_window_shards {window_shards}"
        )


def _lanes_of_node(num_lanes: int) -> int:
    """Those that the ranks of a node read together, by what the launcher says; without a launcher, all."""
    local, world = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    return -(-num_lanes * min(local, world) // world)


def _until(order: Order, turn: int, last: list[int]) -> list[list[int]]:
    """The windows from a turn on, to that of the shards `last`, and the next."""
    num = 1
    while order.shards_from(turn, num)[-1] != last:
        num += 1
    return order.shards_from(turn, num + 1)
