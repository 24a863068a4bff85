"""Randomness by position: what is drawn is a function of the key and the counter, as written down."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.data.positions import Stream, draw

WORD = st.integers(0, 2**63 - 1)


@given(WORD, st.sampled_from(Stream), WORD, st.integers(0, 2**32))
def test_the_key_is_seed_and_stream_and_the_counter_begins_at_position_and_part(seed, stream, position, part):
    key, counter = np.array([seed, int(stream)], np.uint64), np.array([0, position, part, 0], np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key, counter=counter)).integers(2**63, size=5)
    assert np.array_equal(draw(seed, stream, position, part).integers(2**63, size=5), expected)


def test_streams_positions_and_parts_have_numbers_of_their_own():
    drawn = [
        draw(seed, stream, position, part).integers(2**63, size=50)
        for seed in range(2)
        for stream in Stream
        for position in range(4)
        for part in range(2)
    ]
    assert len(np.unique(np.concatenate(drawn))) == 50 * len(drawn)


def test_numbers_of_streams_are_never_changed():
    """A run that goes on after an update must draw what it would have drawn."""
    names = [
        "SHARDS",
        "WINDOW",
        "CAPTION",
        "MISMATCH",
        "FLIP",
        "Z",
        "CONDITION",
        "MIXING",
        "SUBSTITUTE",
        "MODALITY",
        "SPEECH",
        "DROPOUT",
        "AUGMENT",
    ]
    assert [stream.name for stream in sorted(Stream)][: len(names)] == names
    assert [int(stream) for stream in sorted(Stream)] == list(range(len(Stream)))


def test_a_draw_owes_nothing_to_those_before_it_nor_to_other_threads():
    expected = draw(7, Stream.Z, 3).standard_normal(9)
    draw(7, Stream.FLIP, 3).integers(2**32, size=3, dtype=np.uint32)  # half a word is left over
    assert np.array_equal(draw(7, Stream.Z, 3).standard_normal(9), expected)
    generator = draw(7, Stream.Z, 3)
    with ThreadPoolExecutor(1) as other:
        other.submit(lambda: draw(1, Stream.WINDOW, 0).random()).result()
    assert np.array_equal(generator.standard_normal(9), expected)
