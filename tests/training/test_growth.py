import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.config.schema import Stage
from t2f_dist.training.growth import Growth, due, legal_world_sizes, num_parts
from tests.training.small import config

STAGES = (
    Stage(resolution=4, stable_images=100, batch_size=16),
    Stage(resolution=8, fade_images=60, stable_images=45, batch_size=8),
    Stage(resolution=16, fade_images=0, stable_images=7, batch_size=8),
    Stage(resolution=32, fade_images=1, stable_images=30, batch_size=4),
    Stage(resolution=32, stable_images=20, batch_size=8, learning_rate_factor=0.5),
)


def test_alpha_rises_linearly_from_zero_to_one_and_stays():
    growth = Growth(STAGES)
    alphas = [growth.at(images).alpha for images in range(100, 205)]
    assert alphas[0] == 0 and alphas[60:] == [1.0] * 45
    assert all(abs((b - a) - 1 / 60) < 1e-12 for a, b in itertools.pairwise(alphas[:61]))
    assert [growth.at(images).resolution for images in (0, 99, 100, 204, 205, 211, 212, 10**9)] == [
        4, 4, 8, 8, 16, 16, 32, 32,
    ]  # fmt: skip


@given(st.integers(0, 250))
def test_steps_from_anywhere_on_the_way_are_the_rest_of_all_steps(number):
    growth = Growth(STAGES)
    steps = list(growth.steps(0))
    number = min(number, len(steps) - 1)
    assert list(growth.steps(steps[number][0])) == steps[number:]
    assert [growth.at(start).step for start, _, _ in steps] == list(range(len(steps)))
    for (start, size, _), (following, _, _) in itertools.pairwise(steps):
        assert following == start + size


def test_the_counted_steps_are_those_taken():
    growth = Growth(STAGES)
    taken = [growth.at(start).stage for start, _, _ in growth.steps(0)]
    assert [growth.num_steps(stage) for stage in range(5)] == [taken.count(stage) for stage in range(5)]


@given(st.integers(1, 500), st.lists(st.integers(1, 64), min_size=1, max_size=40))
def test_an_event_is_due_once_for_each_multiple_that_a_step_reaches(every, sizes):
    seen, count, reached = 0, 0, set()
    for size in sizes:
        count += due(every, seen, size)
        reached.add((seen + size) // every)
        seen += size
    assert count == len(reached - {0})


def test_a_launch_that_would_cut_a_group_is_refused_with_the_legal_sizes(tmp_path):
    settings = config("house", tmp_path, tmp_path, batch_size=24)
    assert legal_world_sizes(settings) == [1, 2, 3, 6]
    assert num_parts(settings, 24, 6) == 1
    with pytest.raises(ValueError, match=r"4 ranks .* ranks that fit: 1, 2, 3, 6;"):
        num_parts(settings, 24, 4)


@pytest.mark.parametrize(("limit", "parts"), [(24, 1), (23, 2), (12, 2), (11, 3), (8, 3), (7, 6), (4, 6)])
def test_accumulation_takes_the_fewest_equal_parts_that_fit(tmp_path, limit, parts):
    settings = config("house", tmp_path, tmp_path, f"train.batch_per_gpu_max={limit}", batch_size=24)
    assert num_parts(settings, 24, 1) == parts


def test_a_ceiling_below_a_group_is_refused(tmp_path):
    settings = config("house", tmp_path, tmp_path, "train.batch_per_gpu_max=3", batch_size=24)
    with pytest.raises(ValueError, match="batch_per_gpu_max 3 is below the group of 4"):
        num_parts(settings, 24, 1)
