"""Whose turn it is, in closed form, against the loop that was published with 1701.07875, written out."""

from collections.abc import Iterator
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.config.schema import Turns
from t2f_dist.training.turns import generator_learns, num_steps

PUBLISHED = Turns(
    discriminator_steps=5,
    warm_up_discriminator_steps=100,
    warm_up_generator_steps=25,
    warm_up_every_generator_steps=500,
)


def published(turns: Turns) -> Iterator[bool]:
    """For each step of the discriminator, whether a step of the generator follows it."""
    learnt = 0
    while True:
        every = turns.warm_up_every_generator_steps
        warm_up = learnt < turns.warm_up_generator_steps or (every > 0 and learnt % every == 0)
        steps = turns.warm_up_discriminator_steps if warm_up else turns.discriminator_steps
        yield from [False] * (steps - 1)
        yield True
        learnt += 1


def test_the_published_schedule_step_for_step():
    expected = list(islice(published(PUBLISHED), 9000))
    assert [generator_learns(PUBLISHED, step) for step in range(9000)] == expected
    first = [step for step, learns in enumerate(expected) if learns]
    assert first[:25] == [100 * k + 99 for k in range(25)]
    assert first[25:28] == [2504, 2509, 2514]
    assert first[500] - first[499] == first[1000] - first[999] == 100
    assert first[501] - first[500] == 5


@given(
    st.builds(
        Turns,
        discriminator_steps=st.integers(1, 12),
        warm_up_discriminator_steps=st.integers(1, 40),
        warm_up_generator_steps=st.integers(0, 9),
        warm_up_every_generator_steps=st.integers(0, 9),
    )
)
def test_any_schedule_step_for_step(turns: Turns):
    expected = list(islice(published(turns), 400))
    assert [generator_learns(turns, step) for step in range(400)] == expected
    learnt = [step + 1 for step, learns in enumerate(expected) if learns]
    assert [num_steps(turns, number) for number in range(1, len(learnt) + 1)] == learnt
    assert num_steps(turns, 0) == 0


@given(st.integers(0, 10**12))
def test_one_to_one_always_learns(step: int):
    assert generator_learns(Turns(), step)


@given(st.integers(0, 10**9))
def test_far_into_a_run_it_is_as_near_as_at_its_beginning(learnt: int):
    step = num_steps(PUBLISHED, learnt + 1) - 1
    assert generator_learns(PUBLISHED, step)
    assert not generator_learns(PUBLISHED, step + 1)
    assert not any(generator_learns(PUBLISHED, step - back) for back in range(1, 5))
