"""Which attributes a caption names, and as what: the inverse of the grammar in captions.py.

It reads what the grammar writes without error, and free captions sensibly: colours belong to the noun they stand
before (`red hair`, `a blue wall`) or are joined to by a verb (`her hair is long and red`), `no`, `not` and `without`
negate what follows, and what it does not know it leaves unnamed.
"""

from __future__ import annotations

import re

SYNONYMS: dict[str, dict[str, tuple[str, ...]]] = {
    "background": {
        "blue": ("blue",),
        "green": ("green",),
        "yellow": ("yellow",),
        "red": ("red",),
        "purple": ("purple", "violet"),
        "grey": ("grey", "gray"),
    },
    "skin": {
        "light": ("light", "fair", "pale", "white"),
        "tan": ("tan", "tanned", "olive"),
        "brown": ("brown",),
        "dark": ("dark", "black", "ebony"),
    },
    "hair_colour": {
        "black": ("black",),
        "brown": ("brown", "brunette", "chestnut"),
        "blond": ("blond", "blonde", "golden", "fair"),
        "red": ("red", "ginger", "auburn", "orange"),
        "grey": ("grey", "gray", "silver"),
        "white": ("white",),
    },
    "hair_style": {"short": ("short", "cropped"), "long": ("long", "flowing"), "curly": ("curly", "curled", "frizzy")},
}
"""Attribute -> value -> the adjectives that name it; the grammar uses some of them, `named` understands all."""

NOUNS = {
    "background": ("background", "backdrop", "wall"),
    "skin": ("skin", "skinned", "complexion"),
    "hair": ("hair", "haired", "curls", "locks"),
    "beard": ("beard",),
}
"""What an adjective can belong to. A beard is listed because its colour is not that of the hair."""

MEN = ("man", "guy", "gentleman", "male", "boy", "he", "him", "his", "himself")
WOMEN = ("woman", "lady", "female", "girl", "she", "her", "hers", "herself")
GLASSES = ("glasses", "spectacles", "eyeglasses", "bespectacled")
BEARDED = ("beard", "bearded")
SMILES = ("smile", "smiles", "smiling", "grin", "grins", "grinning", "laughing")
SERIOUS = ("serious", "unsmiling", "stern", "frowning")

_GROUPS = {"background": ("background",), "skin": ("skin",), "hair": ("hair_style", "hair_colour"), "beard": ()}
_NOUN_OF = {word: group for group, words in NOUNS.items() for word in words}
_FILLERS = {
    "very",
    "quite",
    "light",
    "dark",
    "straight",
    "wavy",
    "thick",
    "plain",
    "bright",
    "deep",
    "colored",
    "coloured",
}
_ADJECTIVES = {word for values in SYNONYMS.values() for words in values.values() for word in words} | _FILLERS
_HAIR_ALONE = {"blond": "blond", "blonde": "blond", "brunette": "brown", "redhead": "red"}  # `a blonde woman`
_VERBS = {"is", "are", "looks"}
_NEGATIONS = {"no", "not", "without", "never", "lacks", "doesn't", "isn't", "don't", "aren't"}
_BARRIERS = {".", ",", ";", "and", "but", "with", "has", "have", "who", "he", "she", "they"}
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|[.,;]")


def named(caption: str) -> dict[str, str]:
    """Attribute -> value, for the attributes that the caption names; keys and values are those of ATTRIBUTES.

    >>> named("a smiling woman with long red hair and glasses")
    {'sex': 'woman', 'glasses': 'glasses', 'mouth': 'smile', 'hair_style': 'long', 'hair_colour': 'red'}
    """
    tokens = _TOKEN.findall(caption.lower().replace("\u2019", "'"))
    values: dict[str, str] = {}
    for place, token in enumerate(tokens):
        before, after = tokens[max(0, place - 1) : place], tokens[place + 1 : place + 2]
        if token in MEN or token in WOMEN:
            values.setdefault("sex", "man" if token in MEN else "woman")
        elif token in GLASSES:
            values.setdefault("glasses", "none" if _negated(tokens, place) else "glasses")
        elif token in BEARDED or (token == "hair" and before == ["facial"]):
            values.setdefault("beard", "none" if _negated(tokens, place) else "beard")
        elif token == "beardless" or (token in ("shaven", "shaved") and before == ["clean"]):
            values.setdefault("beard", "none")
        elif token in ("bald", "hairless") or (token in ("shaven", "shaved") and after == ["head"]):
            values.setdefault("hair_style", "bald")
        elif token in SMILES:
            values.setdefault("mouth", "closed" if _negated(tokens, place) else "smile")
        elif token in SERIOUS or (token in ("closed", "shut") and _about_the_mouth(tokens, place)):
            values.setdefault("mouth", "closed")
        elif token in _HAIR_ALONE and not _has_noun(tokens, place):
            values.setdefault("hair_colour", _HAIR_ALONE[token])
        if token in _NOUN_OF and before != ["facial"]:
            if token == "hair" and before == ["no"]:
                values["hair_style"] = "bald"
            for attribute, value in _described(tokens, place).items():
                values.setdefault(attribute, value)
    return values


def _negated(tokens: list[str], place: int) -> bool:
    """Whether a negation stands up to five words before, in the same clause."""
    for token in reversed(tokens[max(0, place - 5) : place]):
        if token in _NEGATIONS:
            return True
        if token in _BARRIERS:
            return False
    return False


def _about_the_mouth(tokens: list[str], place: int) -> bool:
    return any(token in ("mouth", "lips") for token in tokens[max(0, place - 2) : place + 2])


def _has_noun(tokens: list[str], place: int) -> bool:
    """Whether the adjective here stands before a noun of NOUNS, or is joined to one before it by a verb."""
    ahead = place + 1
    while ahead < len(tokens) and (tokens[ahead] in _ADJECTIVES or tokens[ahead] in ("and", ",")):
        ahead += 1
    behind = place - 1
    while behind > 0 and (tokens[behind] in _ADJECTIVES or tokens[behind] in ("and", ",")):
        behind -= 1
    joined = behind > 0 and tokens[behind] in _VERBS and tokens[behind - 1] in _NOUN_OF
    return joined or (ahead < len(tokens) and tokens[ahead] in _NOUN_OF)


def _described(tokens: list[str], place: int) -> dict[str, str]:
    """What the adjectives around the noun at `place` say of it; the nearest wins, and curls win over length."""
    near = [*_adjectives_before(tokens, place), *_adjectives_after(tokens, place)]
    if tokens[place] == "curls":
        near.insert(0, "curly")
    values: dict[str, str] = {}
    for attribute in _GROUPS[_NOUN_OF[tokens[place]]]:
        found = [value for word in near for value, words in SYNONYMS[attribute].items() if word in words]
        if found:
            values[attribute] = "curly" if "curly" in found else found[0]
    return values


def _adjectives_before(tokens: list[str], place: int) -> list[str]:
    """The run of adjectives before a noun, nearest first; it crosses `and` and a comma between two of them."""
    found, at = [], place - 1
    while at >= 0:
        if tokens[at] in _ADJECTIVES:
            found.append(tokens[at])
        elif tokens[at] not in ("and", ",") or not found or at == 0 or tokens[at - 1] not in _ADJECTIVES:
            break
        else:  # another noun's predicate may end here: `the wall is blue, long hair`
            start = at - 1
            while start >= 0 and tokens[start] in _ADJECTIVES:
                start -= 1
            if start >= 0 and tokens[start] in _VERBS:
                break
        at -= 1
    return found


def _adjectives_after(tokens: list[str], place: int) -> list[str]:
    """The adjectives that a verb joins to the noun: `hair is long and red`, `hair that is short`."""
    at = place + 1
    if at < len(tokens) and tokens[at] in ("that", "which"):
        at += 1
    elif at < len(tokens) and tokens[at] == "behind":  # `the wall behind the man is blue`
        at += 3 if tokens[at + 1 : at + 2] in (["the"], ["a"], ["this"]) else 2
    if at >= len(tokens) or tokens[at] not in _VERBS:
        return []
    found: list[str] = []
    while True:
        at += 1
        run = []
        while at < len(tokens) and tokens[at] in _ADJECTIVES:
            run.append(tokens[at])
            at += 1
        if not run or (at < len(tokens) and tokens[at] in _NOUN_OF):  # these belong to the next noun
            return found
        found += run
        if at >= len(tokens) or tokens[at] not in ("and", ","):
            return found
