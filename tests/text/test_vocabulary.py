"""Words as numbers."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.text.vocabulary import PADDING, UNKNOWN, Vocabulary
from t2f_dist.text.words import words

counts = st.dictionaries(st.text("abcd", min_size=1, max_size=4), st.integers(1, 50))


def test_indices():
    vocabulary = Vocabulary(["a", "man"])
    assert (PADDING, UNKNOWN, len(vocabulary)) == (0, 1, 4)
    assert vocabulary.encode("A smiling man, a MAN", max_words=4) == [2, UNKNOWN, 3, 2]
    assert vocabulary.encode("A smiling man", max_words=2) == [2, UNKNOWN]
    assert vocabulary.unknown("Smiling, a smiling old man") == ["smiling", "old"]


@given(counts, st.integers(1, 50), st.none() | st.integers(1, 20))
def test_from_counts(found: dict[str, int], min_count: int, max_size: int | None):
    vocabulary = Vocabulary.from_counts(found, min_count, max_size)
    left_out = set(found) - set(vocabulary.words)
    assert all(found[word] >= min_count for word in vocabulary.words)
    if max_size is None:
        assert all(found[word] < min_count for word in left_out)
    else:
        assert len(vocabulary.words) <= max_size
        kept = min((found[word] for word in vocabulary.words), default=0)
        assert len(vocabulary.words) < max_size or all(found[word] <= kept for word in left_out)


@given(counts)
def test_order_of_counting_does_not_matter(found: dict[str, int]):
    other = Counter(dict(reversed(found.items())))
    assert Vocabulary.from_counts(found) == Vocabulary.from_counts(other)


@given(st.lists(st.text(), unique=True))
def test_json_round_trip(entries: list[str]):
    vocabulary = Vocabulary(entries)
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@given(st.text())
def test_unknown_words_are_those_encoded_as_unknown(caption: str):
    vocabulary = Vocabulary(words(caption)[:1])
    assert vocabulary.encode(caption, 10**6).count(UNKNOWN) == sum(word not in vocabulary for word in words(caption))


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"format": "t2f-dist-vocabulary", "version": 1})])
def test_not_a_vocabulary(text: str):
    with pytest.raises(ValueError, match="vocabulary"):
        Vocabulary.from_json(text)


def test_a_word_twice():
    with pytest.raises(ValueError, match="'man' twice"):
        Vocabulary(["man", "a", "man"])


counted = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 5))


@given(counted, counted, st.integers(1, 4), st.none() | st.integers(1, 20))
def test_an_extension_keeps_every_number_and_appends_by_the_rules(
    before: dict[str, int], more: dict[str, int], min_count: int, max_size: int | None
):
    old = Vocabulary.from_counts(before, min_count, max_size)
    new = old.extended(more, min_count, max_size)
    assert new.words[: len(old.words)] == old.words
    added = new.words[len(old.words) :]
    fitting = [word for word, count in more.items() if count >= min_count and word not in old]
    assert set(added) <= set(fitting)
    assert list(added) == sorted(added, key=lambda word: (-more[word], word))
    room = len(fitting) if max_size is None else max(0, max_size - len(old.words))
    assert len(added) == min(len(fitting), room)
