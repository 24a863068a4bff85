import collections

import pytest

from t2f_dist.portraits.attributes import ABSENT, ATTRIBUTES, FREQUENCIES, JITTER, portrait

PEOPLE = [portrait(4, index) for index in range(6000)]


def test_a_portrait_is_a_function_of_seed_and_index():
    assert portrait(4, 17) == PEOPLE[17]
    assert portrait(4, 17).jitter != portrait(4, 18).jitter != portrait(5, 18).jitter


def test_frequencies_are_those_stated():
    for name, values in ATTRIBUTES.items():
        assert sum(FREQUENCIES[name]) == pytest.approx(1)
        counted = [p for p in PEOPLE if name != "beard" or p.attributes["sex"] == "man"]
        counts = collections.Counter(person.attributes[name] for person in counted)
        for value, frequency in zip(values, FREQUENCIES[name], strict=True):
            assert counts[value] / len(counted) == pytest.approx(frequency, abs=0.03)


def test_attributes_are_independent_of_each_other():
    names = set(ATTRIBUTES) - {"beard"}
    for given in names:
        rows = [person for person in PEOPLE if person.attributes[given] == ATTRIBUTES[given][0]]
        for name in names - {given}:
            for value, frequency in zip(ATTRIBUTES[name], FREQUENCIES[name], strict=True):
                share = sum(person.attributes[name] == value for person in rows) / len(rows)
                assert share == pytest.approx(frequency, abs=0.08)


def test_only_men_have_beards_and_only_the_bald_no_hair_colour():
    assert {p.attributes["sex"] for p in PEOPLE if p.attributes["beard"] == "beard"} == {"man"}
    for person in PEOPLE[:500]:
        assert (person.labels["hair_colour"] == ABSENT) == person.bald
        assert person.bald == ("-any-bald-" in person.identity)


def test_identity_is_the_combination_and_the_jitter_is_not():
    same = collections.defaultdict(list)
    for person in PEOPLE:
        same[person.identity].append(person)
    group = max(same.values(), key=len)
    assert len(group) > 2
    assert len({tuple(sorted(person.labels.items())) for person in group}) == 1
    assert len({tuple(person.jitter.values()) for person in group}) == len(group)
    assert all(-1 <= value < 1 for person in PEOPLE[:100] for value in person.jitter.values())
    assert tuple(PEOPLE[0].jitter) == JITTER


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1), (2**63, 0)])
def test_a_seed_or_index_out_of_range_is_named(seed, index):
    with pytest.raises(ValueError, match="must be between 0 and"):
        portrait(seed, index)
