"""How values are spread, in memory that does not grow with their number: a histogram, and how many differ."""

import math
from typing import Any

import numpy as np

CELLS = 65_536
BARS = 24
TAIL = 0.995  # of the values; the few beyond them share one bar where they lie far out
KEPT = 1_000_000  # different values, up to which `Distinct` is exact


class Spread:
    """A histogram of values of 0 and more in cells of `step`: 65,536 of them, the last for all that is larger.

    Count, mean, smallest and largest are exact; the median is exact to a step.
    """

    def __init__(self, step: float = 1):
        self.step = step
        self.cells = np.zeros(0, np.int64)
        self.count = 0
        self.sum = 0.0
        self.min = math.inf
        self.max = -math.inf

    def add(self, values: np.ndarray) -> None:
        """values: [N], of any real type."""
        if not len(values):
            return
        numbers = np.asarray(values, np.float64)
        # A value that is a whole number of steps belongs to the cell that it begins, whatever division makes of it.
        cells = np.floor(numbers / self.step + 1e-9)
        counted = np.bincount(np.minimum(cells, CELLS - 1).astype(np.int64))
        if len(counted) > len(self.cells):
            self.cells = np.concatenate([self.cells, np.zeros(len(counted) - len(self.cells), np.int64)])
        self.cells[: len(counted)] += counted
        self.count += len(numbers)
        self.sum += float(numbers.sum())
        self.min, self.max = min(self.min, float(numbers.min())), max(self.max, float(numbers.max()))

    def merge(self, other: "Spread") -> None:
        assert self.step == other.step
        longer, shorter = sorted((self.cells, other.cells), key=len, reverse=True)
        self.cells = longer.copy()
        self.cells[: len(shorter)] += shorter
        self.count += other.count
        self.sum += other.sum
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)

    @property
    def mean(self) -> float:
        return self.sum / self.count

    @property
    def median(self) -> float:
        """The lower of the two in the middle."""
        return min(max(self._cell_at(0.5) * self.step, self.min), self.max)

    def _cell_at(self, share: float) -> int:
        return int(np.searchsorted(np.cumsum(self.cells), max(1, math.ceil(share * self.count))))

    def histogram(self, bars: int = BARS) -> tuple[list[float], list[int]]:
        """Edges [B + 1] and counts [B], of round width, at most `bars` + 2 of them; the last bar may be wider."""
        if not self.count:
            return [], []
        low, high = int(np.flatnonzero(self.cells)[0]), len(self.cells) - 1
        tail = self._cell_at(TAIL)
        far = high - low > 2 * (tail - low) + bars
        end = tail if far else high
        width = _round_up((end - low + 1) / bars)
        first = low // width * width
        edges = list(range(first, end + width + 1, width))
        edges = edges if edges[-1] > end else [*edges, edges[-1] + width]
        while len(edges) > 2 and edges[-2] > end:
            edges.pop()
        counts = np.add.reduceat(np.append(self.cells, 0), np.minimum(edges, len(self.cells))).tolist()[:-1]
        if edges[-1] <= high:
            edges.append(high + 1)
            counts.append(int(self.cells[edges[-2] :].sum()))
        shown = [round(edge * self.step, 9) for edge in edges]
        if shown[-1] <= self.max:
            shown[-1] = self.max
        return shown, counts

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without values, all but the count is null."""
        if not self.count:
            return {"count": 0, "min": None, "median": None, "mean": None, "max": None, "histogram": None}
        edges, counts = self.histogram()
        return {
            "count": self.count,
            "min": self.min,
            "median": self.median,
            "mean": round(self.mean, 6),
            "max": self.max,
            "histogram": {"edges": edges, "counts": counts},
        }


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50 ..."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= width:
                return factor * power
        power *= 10


class Distinct:
    """How many 64-bit values differ, and how often each occurs: exact up to a million different ones.

    Beyond, those are kept whose mixed bits begin with some zeros, an even sample, from which the rest is inferred
    (Gibbons, "Distinct sampling for highly-accurate answers to distinct values queries", 2001): at a million kept the
    count is within about 0.3 %.
    """

    def __init__(self, kept: int = KEPT):
        self.kept = kept
        self.level = 0  # leading zeros
        self.values = np.zeros(0, np.uint64)  # mixed, sorted
        self.counts = np.zeros(0, np.int64)
        self._pending: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """values: uint64 [N]."""
        mixed = _mixed(np.asarray(values, np.uint64))
        self._pending.append(mixed[_begins(mixed, self.level)])
        if sum(map(len, self._pending)) > self.kept:
            self.settle()

    def settle(self) -> "Distinct":
        """Count what was added; to be called before anything is read."""
        both = np.concatenate([self.values, *self._pending])
        weights = np.concatenate([self.counts, np.ones(len(both) - len(self.values), np.int64)])
        self._pending = []
        self.values, places = np.unique(both, return_inverse=True)
        self.counts = np.bincount(places, weights, minlength=len(self.values)).astype(np.int64)
        while len(self.values) > self.kept:
            self.level += 1
            held = _begins(self.values, self.level)
            self.values, self.counts = self.values[held], self.counts[held]
        return self

    @property
    def num(self) -> int:
        return len(self.values) << self.level

    @property
    def exact(self) -> bool:
        return self.level == 0

    def shared(self, other: "Distinct") -> int:
        """How many values both hold."""
        level = max(self.level, other.level)
        sides = [side.values[_begins(side.values, level)] for side in (self, other)]
        return len(np.intersect1d(*sides, assume_unique=True)) << level

    def occurrences(self) -> Spread:
        spread = Spread()
        spread.add(self.counts)
        return spread


def _begins(mixed: np.ndarray, level: int) -> np.ndarray:
    """Which values begin with `level` zeros: bool [N]."""
    return mixed <= np.uint64((1 << (64 - level)) - 1)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of the value; different values stay different (splitmix64)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
