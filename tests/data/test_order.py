import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.data.order import Order, lanes

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(COUNTS, st.integers(1, 5), st.integers(0, 2**62))
def test_every_epoch_visits_every_sample_once(counts, window, seed):
    order = Order(counts, seed, window)
    everything = {(shard, row) for shard, count in enumerate(counts) for row in range(count)}
    for epoch in range(3):
        start = epoch * order.num_samples
        places = [tuple(order.locate(position)) for position in range(start, start + order.num_samples)]
        assert len(places) == len(everything) and set(places) == everything


@given(COUNTS, st.integers(1, 5), st.integers(0, 10**12))
def test_any_position_is_found_without_those_before_it(counts, window, start):
    walking = Order(counts, 1, window)
    walked = [walking.locate(position) for position in range(start, start + 30)]
    jumped = [Order(counts, 1, window).locate(position) for position in range(start, start + 30)]
    assert walked == jumped


def test_a_window_holds_whole_shards_and_epochs_differ():
    order = Order([10] * 20, seed=3, window_shards=4)
    firsts = []
    for epoch in range(2):
        for window in range(5):
            places = [order.locate(epoch * 200 + window * 40 + index) for index in range(40)]
            assert len({place.shard for place in places}) == 4
            firsts.append([tuple(place) for place in places])
    assert firsts[:5] != firsts[5:]
    assert len({tuple(map(tuple, window)) for window in firsts}) == 10


def test_a_full_shuffle_is_uniform():
    """With one window over all shards, each sample is first in the epoch equally often (chi square, 5 sigma)."""
    order = Order([2, 3], seed=0, window_shards=2)
    firsts = np.zeros(5)
    for epoch in range(3000):
        shard, row = order.locate(epoch * 5)
        firsts[shard * 2 + row] += 1
    assert ((firsts - 600) ** 2 / 600).sum() < 4 + 5 * 8**0.5


@given(COUNTS, st.integers(1, 5), st.integers(0, 2**62), st.data())
def test_lanes_share_out_the_shards_and_each_goes_round_its_own(counts, window, seed, data):
    num = data.draw(st.integers(1, len(counts)))
    orders = lanes(counts, seed, window, num)
    owned = [{place.shard for place in map(order.locate, range(order.num_samples))} for order in orders]
    assert sorted(number for shards in owned for number in shards) == list(range(len(counts)))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1
    for order, shards in zip(orders, owned, strict=True):
        everything = {(shard, row) for shard in shards for row in range(counts[shard])}
        for epoch in range(2):
            start = epoch * order.num_samples
            places = [tuple(order.locate(turn)) for turn in range(start, start + order.num_samples)]
            assert len(places) == len(everything) and set(places) == everything


def test_lanes_are_shuffled_apart():
    orders = lanes([10] * 8, 0, 4, 2)
    rows = [[order.locate(turn).row for turn in range(40)] for order in orders]
    assert rows[0] != rows[1]
    assert lanes([10] * 8, 0, 4, 1)[0].locate(7) == Order([10] * 8, 0, 4).locate(7)


@given(COUNTS, st.integers(1, 5), st.integers(0, 10**6), st.integers(1, 4))
def test_the_shards_that_are_needed_next_are_those_of_the_windows_to_come(counts, window, start, num):
    order = Order(counts, 3, window)
    ahead = order.shards_from(start, num)
    position = start
    for shards in ahead:
        there, index = order.window(position)
        assert there.shards == shards
        position += len(there) - index
