import collections

import pytest

from t2f_dist.portraits.attributes import ATTRIBUTES, portrait
from t2f_dist.portraits.captions import NAMED_SHARE, captions, named
from t2f_dist.text.words import words

PEOPLE = [portrait(2, index) for index in range(3000)]
CAPTIONS = [captions(person, 2, 3) for person in PEOPLE]


def test_what_is_named_is_true():
    for person, sentences in zip(PEOPLE, CAPTIONS, strict=True):
        for caption in sentences:
            said = named(caption)
            assert said, caption
            assert said.items() <= person.attributes.items(), (caption, said)


def test_every_attribute_is_named_as_often_as_stated():
    """Beards of men, hair colours of those who have hair; with the truth above, the exact inverse of the grammar: a
    word that `named` overlooked would lower a share."""
    counted, possible = collections.Counter(), collections.Counter()
    for person, sentences in zip(PEOPLE, CAPTIONS, strict=True):
        for caption in sentences:
            counted.update(named(caption).keys())
            possible.update(name for name in ATTRIBUTES if _nameable(person, name))
    for name in ATTRIBUTES:
        assert counted[name] / possible[name] == pytest.approx(NAMED_SHARE, abs=0.015), name


def _nameable(person, name):
    if name == "beard":
        return person.attributes["sex"] == "man"
    return name != "hair_colour" or not person.bald


def test_what_cannot_be_named_is_not():
    for person, sentences in zip(PEOPLE, CAPTIONS, strict=True):
        assert all(_nameable(person, name) for caption in sentences for name in named(caption))


def test_captions_vary_and_keep_to_a_small_vocabulary():
    flat = [caption for sentences in CAPTIONS for caption in sentences]
    counts = collections.Counter(word for caption in flat for word in words(caption))
    lengths = [len(words(caption)) for caption in flat]
    assert 100 <= len(counts) <= 150
    assert min(counts.values()) > 20  # every word is seen often enough to be learnt
    assert 17 < sum(lengths) / len(lengths) < 22
    assert len(set(flat)) > 0.95 * len(flat)
    assert len({" ".join(words(caption)[:3]) for caption in flat}) > 100


def test_more_captions_begin_with_the_fewer():
    assert captions(PEOPLE[0], 7, 5)[:2] == captions(PEOPLE[0], 7, 2) != captions(PEOPLE[0], 8, 2)
    assert captions(PEOPLE[0], 7, 0) == []
    with pytest.raises(ValueError, match="num must not be negative"):
        captions(PEOPLE[0], 7, -1)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (
            "a smiling woman with long red hair and glasses",
            {"sex": "woman", "mouth": "smile", "hair_style": "long", "hair_colour": "red", "glasses": "glasses"},
        ),
        ("He doesn't wear glasses.", {"sex": "man", "glasses": "none"}),
        ("He doesn\u2019t wear any glasses.", {"sex": "man", "glasses": "none"}),
        ("A blonde lady, not smiling", {"sex": "woman", "hair_colour": "blond", "mouth": "closed"}),
        ("an old man without glasses or a beard", {"sex": "man", "glasses": "none", "beard": "none"}),
        ("no beard, glasses", {"beard": "none", "glasses": "glasses"}),
        ("a man with facial hair and a shaved head", {"sex": "man", "beard": "beard", "hair_style": "bald"}),
        ("A man with a red beard and black hair", {"sex": "man", "beard": "beard", "hair_colour": "black"}),
        ("a woman in a red dress in front of a green wall", {"sex": "woman", "background": "green"}),
        ("the wall is blue, long hair", {"background": "blue", "hair_style": "long"}),
        ("Her hair is long, curly and light brown; grey backdrop",
         {"sex": "woman", "hair_style": "curly", "hair_colour": "brown", "background": "grey"}),
        ("The wall behind the man is gray", {"sex": "man", "background": "grey"}),
        ("a brunette with very pale skin", {"hair_colour": "brown", "skin": "light"}),
        ("red-haired, dark-skinned, clean-shaven", {"hair_colour": "red", "skin": "dark", "beard": "none"}),
        ("mouth closed", {"mouth": "closed"}),
        ("A closed door", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_free_captions_are_understood(caption, expected):
    assert named(caption) == expected
