"""The conditions of earlier steps: whose they are, how they are replaced, and that sharing a batch changes nothing."""

import pytest
import torch

from t2f_dist.models.condition_queue import ConditionQueue


def pushed(size: int, *steps: list[int]) -> ConditionQueue:
    """A queue after steps of such identities; the vector of each entry says in which push it came, and its place."""
    queue = ConditionQueue(size, 2)
    count = 0
    for step in steps:
        numbers = torch.arange(count, count + len(step), dtype=torch.float32)
        identities = torch.tensor(step, dtype=torch.int64)
        queue.push(torch.stack([numbers, -numbers], dim=1), identities, torch.ones(len(step), dtype=torch.bool))
        count += len(step)
    return queue


def numbers(queue: ConditionQueue) -> list[int]:
    return queue.vectors[:, 0].long().tolist()


def test_nothing_is_a_rival_before_it_is_filled():
    queue = pushed(5)
    assert not queue.rivals(torch.tensor([0, 1])).any(), "0 is also what an empty place holds"
    queue = pushed(5, [0, 7, 8])
    assert queue.rivals(torch.tensor([7, 0, 3])).tolist() == [
        [True, False, True, False, False],
        [False, True, True, False, False],
        [True, True, True, False, False],
    ]


def test_own_identity_is_no_rival_wherever_it_stands_and_whatever_its_bits():
    negative = torch.tensor(2**63 + 5, dtype=torch.uint64).view(torch.int64).item()
    queue = pushed(3, [negative, 5, negative])
    assert queue.rivals(torch.tensor([negative])).tolist() == [[False, True, False]]


def test_a_push_wraps_around_and_replaces_the_oldest():
    queue = pushed(5, [10, 11, 12], [13, 14, 15, 16])
    assert numbers(queue) == [5, 6, 2, 3, 4]
    assert queue.identities.tolist() == [15, 16, 12, 13, 14]
    assert queue.num_pushed == 7
    assert torch.equal(queue.vectors[:, 0], -queue.vectors[:, 1])
    assert queue.rivals(torch.tensor([12])).tolist() == [[True, True, False, True, True]]


@pytest.mark.parametrize("before", [0, 1, 4])
def test_of_a_push_larger_than_the_queue_the_last_are_kept(before: int):
    queue = pushed(5, list(range(before)), list(range(100, 113)))
    assert sorted(numbers(queue)) == list(range(before + 8, before + 13))
    assert sorted(queue.identities.tolist()) == list(range(108, 113))
    assert [identity - number for identity, number in zip(queue.identities.tolist(), numbers(queue))] == [
        100 - before
    ] * 5, "each with its own identity"


@pytest.mark.parametrize("cuts", [[12], [4, 8], [1] * 12, [5, 5, 2]])
def test_a_global_batch_may_come_in_any_parts(cuts: list[int]):
    """Parts in the order of positions leave exactly what the whole batch leaves."""
    steps = [list(range(20 * step, 20 * step + 12)) for step in range(3)]
    whole = pushed(7, *steps)
    parts = []
    for step in steps:
        for cut in cuts:
            parts.append(step[:cut])
            step = step[cut:]
    split = pushed(7, *parts)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), split.state_dict().values()))


def test_entries_carry_no_graph_and_stand_in_the_state():
    queue = ConditionQueue(3, 2)
    queue.push(torch.ones(2, 2, requires_grad=True) * 2, torch.tensor([1, 2]), torch.tensor([True, False]))
    assert not queue.vectors.requires_grad
    assert set(queue.state_dict()) == {"vectors", "identities", "counts", "num_pushed"}
    again = ConditionQueue(3, 2)
    again.load_state_dict(queue.state_dict())
    assert again.rivals(torch.tensor([1, 2])).tolist() == [[False, False, False], [True, False, False]]


def test_who_has_no_condition_takes_a_place_and_is_no_rival():
    queue = ConditionQueue(5, 2)
    present = torch.tensor([True, False, True, False])
    queue.push(torch.ones(4, 2), torch.tensor([1, 2, 3, 4]), present)
    assert queue.rivals(torch.tensor([9, 2, 3])).tolist() == [
        [True, False, True, False, False],
        [True, False, True, False, False],
        [True, False, False, False, False],
    ]
    queue.push(torch.ones(3, 2), torch.tensor([5, 6, 7]), torch.tensor([True, False, True]))
    assert queue.counts.tolist() == [False, True, True, False, True], "one of either kind may replace the other"
    queue.push(torch.ones(12, 2), torch.arange(12), torch.arange(12) % 3 == 0)
    kept = sorted(zip(queue.identities.tolist(), queue.counts.tolist()))
    assert kept == [(7, False), (8, False), (9, True), (10, False), (11, False)], "of many, the last with their own"


@pytest.mark.parametrize("cuts", [[12], [4, 8], [5, 5, 2]])
def test_who_has_a_condition_does_not_depend_on_the_parts(cuts: list[int]):
    present = torch.arange(12) % 4 != 1
    whole, parts = ConditionQueue(7, 2), ConditionQueue(7, 2)
    for step in range(3):
        vectors, identities = torch.full((12, 2), float(step)), torch.arange(12) + 20 * step
        whole.push(vectors, identities, present)
        for part in zip(vectors.split(cuts), identities.split(cuts), present.split(cuts)):
            parts.push(*part)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values()))


def test_a_bad_push_leaves_it_as_it_was():
    queue = pushed(5, [10, 11, 12, 13])
    before = {name: buffer.clone() for name, buffer in queue.named_buffers()}
    vectors, there = torch.full((3, 2), torch.nan), torch.ones(3, dtype=torch.bool)
    queue.push(vectors, torch.tensor([1, 2, 3]), there, bad=torch.tensor(True))
    assert all(torch.equal(buffer, before[name]) for name, buffer in queue.named_buffers())
    queue.push(vectors.nan_to_num(9), torch.tensor([1, 2, 3]), there, bad=torch.tensor(False))
    assert queue.identities.tolist() == [2, 3, 12, 13, 1] and queue.num_pushed == 7
