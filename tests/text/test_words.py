"""Captions as words."""

from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.text.words import words


def test_words():
    assert words("A man's light-brown hair, 45 or 50; (nice) smile!") == [
        *("a", "man's", "light", "brown", "hair", "45", "or", "50", "nice", "smile"),
    ]
    assert words("It\u2019s caf\u00e9") == ["it's", "caf\u00e9"]
    assert words("... -- '' _") == []


@given(st.text())
def test_words_of_words_are_the_words(text: str):
    found = words(text)
    assert words(" ".join(found)) == found
    assert all(word and not any(character.isspace() for character in word) for word in found)
