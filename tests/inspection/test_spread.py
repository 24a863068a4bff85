"""Histograms and counts in bounded memory, against NumPy over all values."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2f_dist.inspection.spread import Distinct, Spread


def spread(values: np.ndarray, step: float = 1) -> Spread:
    found = Spread(step)
    found.add(values)
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=200), st.sampled_from([1, 7, 100]), st.integers(0, 200))
def test_of_whole_numbers_all_is_exact_to_the_step(values: list[int], step: int, cut: int):
    found = spread(np.array(values[:cut]), step)
    found.merge(spread(np.array(values[cut:]), step))
    assert (found.count, found.min, found.max) == (len(values), min(values), max(values))
    assert found.mean == pytest.approx(np.mean(values))
    lower = sorted(values)[(len(values) - 1) // 2]
    if lower < 65_535 * step:
        assert abs(found.median - lower) < step
    edges, counts = found.histogram()
    assert sum(counts) == len(values) and len(edges) == len(counts) + 1 <= 27
    assert all(low < high for low, high in pairwise(edges))
    if max(values) < 65_535 * step:
        cells = np.floor(np.array(values) / step) * step
        expected, _ = np.histogram(cells, [*edges[:-1], np.inf])
        assert counts == expected.tolist()


def test_a_few_far_away_do_not_flatten_the_rest():
    values = np.concatenate([np.arange(200, 300).repeat(10), [60_000, 65_000]])
    edges, counts = spread(values).histogram()
    assert edges[-2] <= 320 and edges[-1] >= 65_000
    assert counts[-1] == 2 and len(counts) > 15


def test_hundredths_stand_in_their_own_cells():
    found = spread(np.arange(1, 1000) / 100, 0.01)
    assert found.median == pytest.approx(5.0)
    assert found.cells[1:1000].tolist() == [1] * 999


def test_nothing_is_said_of_nothing():
    assert spread(np.zeros(0)).to_dict() == {"count": 0} | dict.fromkeys(("min", "median", "mean", "max", "histogram"))


def test_distinct_is_exact_as_long_as_it_holds_all():
    random = np.random.Generator(np.random.Philox(key=1))
    values = random.integers(0, 500, 3000).astype(np.uint64)
    found = Distinct(kept=600)
    for part in np.array_split(values, 17):
        found.add(part)
    found.settle()
    _, expected = np.unique(values, return_counts=True)
    assert found.exact and found.num == len(expected)
    assert sorted(found.counts.tolist()) == sorted(expected.tolist())
    other = Distinct(kept=600)
    other.add(np.arange(400, 900, dtype=np.uint64))
    assert found.shared(other.settle()) == len(set(range(400, 900)) & set(values.tolist()))


def test_distinct_infers_what_it_cannot_hold():
    """Values in a row, three times each, of which a fraction is kept."""
    one, other = Distinct(kept=4_000), Distinct(kept=20_000)
    for start in range(0, 60_000, 1000):
        part = np.arange(start, start + 1000, dtype=np.uint64)
        for _ in range(3):
            one.add(part)
        other.add(part + np.uint64(30_000))
    one.settle(), other.settle()
    assert not one.exact and len(one.values) <= 4_000
    assert one.num == pytest.approx(60_000, rel=0.06)
    assert set(one.counts.tolist()) == {3}, "of those that are kept, all occurrences count"
    assert one.shared(other) == pytest.approx(30_000, rel=0.1)
