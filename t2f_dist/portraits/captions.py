"""A portrait in words: natural captions from a varied grammar. `named` (naming.py) is its exact inverse.

Each attribute is named with a probability of .85, independently for every caption; the beard only of men, the hair
colour never of the bald. Order, subject, sentence shape and synonyms vary; the whole vocabulary is some 110 words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from t2f_dist.portraits.attributes import ATTRIBUTES, Portrait, stream
from t2f_dist.portraits.naming import named

__all__ = ["NAMED_SHARE", "captions", "named"]

NAMED_SHARE = 0.85
"""The probability that a caption names an attribute that can be named."""

_WORDS = {
    "background": {"purple": ("purple", "purple", "violet"), "grey": ("grey", "gray")},
    "skin": {"light": ("light", "fair", "pale"), "tan": ("tan", "tanned"), "dark": ("dark",), "brown": ("brown",)},
    "hair_colour": {"blond": ("blond", "blonde"), "red": ("red", "red", "ginger"), "grey": ("grey", "gray", "silver")},
    "hair_style": {"short": ("short", "short", "cropped"), "long": ("long", "long", "flowing")},
}
_SUBJECTS = {
    "man": ("man", "man", "guy", "gentleman"),
    "woman": ("woman", "woman", "lady"),
    None: ("person", "person", "individual"),
}
_PRONOUNS = {"man": ("he", "his", "him"), "woman": ("she", "her", "her"), None: ("they", "their", "them")}


def captions(portrait: Portrait, seed: int, num: int) -> list[str]:
    """`num` captions of the portrait, a pure function of (portrait, seed, num's prefix): more captions never change
    the first ones. Raises ValueError when num is negative."""
    if num < 0:
        raise ValueError(f"num must not be negative, got {num}")
    random = stream(seed, "captions", portrait.index)
    return [_Caption(portrait, random.random(96)).text() for _ in range(num)]


class _Caption:
    """One caption in the making: the dice, what is named, and the phrases for it."""

    def __init__(self, portrait: Portrait, draws: np.ndarray) -> None:
        self._draws = iter(draws.tolist())
        values = {name: portrait.attributes[name] for name in ATTRIBUTES}
        if portrait.attributes["sex"] == "woman":
            del values["beard"]
        if portrait.bald:
            del values["hair_colour"]
        said = {name: value for name, value in values.items() if next(self._draws) < NAMED_SHARE}
        said = said or {"background": values["background"]}
        self.sex = said.pop("sex", None)
        self.said = said
        self.he, self.his, self.him = _PRONOUNS[self.sex]
        self.plural = self.sex is None

    def pick(self, options: Sequence[str]) -> str:
        return options[int(next(self._draws) * len(options))]

    def chance(self, probability: float) -> bool:
        return next(self._draws) < probability

    def word(self, attribute: str) -> str:
        value = self.said[attribute]
        return self.pick(_WORDS[attribute].get(value, (value,)))

    def units(self) -> list[str]:
        """What there is to say besides sex and background, in random order."""
        units = [name for name in ("skin", "glasses", "beard", "mouth") if name in self.said]
        hair = [name for name in ("hair_colour", "hair_style") if name in self.said]
        units += ["hair"] if len(hair) == 2 and self.chance(0.85) else hair
        keyed = sorted((next(self._draws), unit) for unit in units)
        return [unit for _, unit in keyed]

    def text(self) -> str:
        shape = next(self._draws)
        units = self.units()
        if shape < 0.3:
            return self.one_sentence(units)
        if shape < 0.6:
            return self.two_sentences(units)
        if shape < 0.85:
            return self.clauses(units)
        return self.list(units)

    # ---- phrases ------------------------------------------------------------------------------------------------

    def adjective(self, unit: str) -> str:
        """`smiling`, `dark-skinned`, or nothing where English has no good word."""
        value = self.said.get(unit)
        if unit == "skin":
            return f"{self.word('skin')}-skinned"
        if unit in ("hair_colour", "hair_style"):
            return "bald" if value == "bald" else f"{self.word(unit)}-haired"
        words = {
            ("glasses", "glasses"): ("bespectacled",),
            ("beard", "beard"): ("bearded",),
            ("beard", "none"): ("clean-shaven", "beardless"),
            ("mouth", "smile"): ("smiling", "smiling", "grinning"),
            ("mouth", "closed"): ("serious", "unsmiling"),
        }.get((unit, value or ""), ("",))
        return self.pick(words)

    def thing(self, unit: str) -> str:
        """What one has, or is drawn with: `long red hair`, `no glasses`, `a smile`."""
        value = self.said.get(unit)
        if unit == "skin":
            return self.pick(("{} skin", "{} skin", "a {} complexion")).format(self.word("skin"))
        if unit == "hair":
            colour = self.word("hair_colour")
            if self.said["hair_style"] == "curly" and self.chance(0.3):
                return f"{colour} curls"
            shapes = ("{1} {0} hair", "{1} {0} hair", "{1}, {0} hair", "{0} hair that is {1}", "{0}, {1} hair")
            return self.pick(shapes).format(colour, self.word("hair_style"))
        if unit == "hair_colour" or (unit == "hair_style" and value != "bald"):
            return f"{self.word(unit)} hair"
        return self.pick({
            ("hair_style", "bald"): ("a bald head", "no hair"),
            ("glasses", "glasses"): ("glasses", "glasses", "spectacles", "eyeglasses"),
            ("glasses", "none"): ("no glasses",),
            ("beard", "beard"): ("a beard", "a full beard"),
            ("beard", "none"): ("no beard", "a clean-shaven face"),
            ("mouth", "smile"): ("a smile", "a broad smile", "a happy grin"),
            ("mouth", "closed"): ("a closed mouth", "closed lips", "a serious expression"),
        }[unit, value or ""])  # fmt: skip

    def predicate(self, unit: str, plural: bool) -> str:
        """What one does, is or has: `wears glasses`, `is smiling`, `has long red hair`."""
        value = self.said.get(unit)
        be, wear, have, do = ("are", "wear", "have", "do") if plural else ("is", "wears", "has", "does")
        options = {
            ("hair_style", "bald"): (f"{be} bald",),
            ("glasses", "glasses"): (f"{wear} glasses", f"{wear} spectacles"),
            ("glasses", "none"): (f"{do} not wear glasses", f"{wear} no glasses"),
            ("beard", "none"): (f"{be} clean-shaven", f"{have} no beard"),
            ("mouth", "smile"): (f"{be} smiling", "smile" if plural else "smiles"),
            ("mouth", "closed"): (f"{be} not smiling", "look serious" if plural else "looks serious"),
        }.get((unit, value or ""))
        return self.pick(options) if options else f"{have} {self.thing(unit)}"

    def place(self) -> str:
        """`in front of a blue wall`"""
        shapes = ("in front of a {} wall", "in front of a {} background", "against a {} backdrop", "on a {} background")
        return self.pick(shapes).format(self.word("background"))

    def scene(self) -> str:
        """A sentence about the background."""
        shapes = ("the background is {}", "behind {him} is a {} wall", "the wall behind {him} is {}")
        shapes += ("there is a {} backdrop",)
        colour = self.word("background")
        return self.pick(shapes).format(colour, him=self.him)

    def owned(self, unit: str) -> str:
        """A sentence whose subject is a part of the face, or else one about the person."""
        if unit == "skin" and self.chance(0.6):
            return f"{self.his} skin is {self.word('skin')}"
        if unit == "hair" and self.chance(0.6):
            return f"{self.his} hair is {self.word('hair_style')} and {self.word('hair_colour')}"
        return f"{self.he} {self.predicate(unit, self.plural)}"

    def subject(self, units: list[str], adjectives: int) -> str:
        """`a smiling, dark-skinned man`; the units it uses up are taken from `units`."""
        used = []
        for unit in list(units):
            word = self.adjective(unit) if len(used) < adjectives and unit != "hair" else ""
            if word:
                used.append(word)
                units.remove(unit)
        phrase = f"{', '.join(used)} {self.pick(_SUBJECTS[self.sex])}".strip()
        return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"

    # ---- shapes of captions -------------------------------------------------------------------------------------

    def one_sentence(self, units: list[str]) -> str:
        subject = self.subject(units, int(next(self._draws) * 3))
        openings = ("{}", "{}", "portrait of {}", "a picture of {}", "this is {}", "here we see {}")
        person = self.pick(openings).format(subject)
        if units and self.chance(0.3):
            person += " who " + _listed([self.predicate(unit, False) for unit in units])
        elif units:
            person += " with " + _listed([self.thing(unit) for unit in units])
        if "background" not in self.said:
            return _sentence(person)
        place = self.place()
        return _sentence(f"{place}, {person}" if self.chance(0.3) else f"{person}{', ' if units else ' '}{place}")

    def two_sentences(self, units: list[str]) -> str:
        subject = self.subject(units, int(next(self._draws) * 2))
        first, rest = units[: (len(units) + 1) // 2], units[(len(units) + 1) // 2 :]
        scene = "background" in self.said and self.chance(0.5)
        if first:
            subject += " with " + _listed([self.thing(unit) for unit in first])
        if "background" in self.said and not scene:
            subject += f"{', ' if first else ' '}{self.place()}"
        sentences = [subject]
        if rest:
            sentences.append(f"{self.he} " + _listed([self.predicate(unit, self.plural) for unit in rest]))
        if scene:
            sentences.append(self.scene())
        return " ".join(map(_sentence, sentences))

    def clauses(self, units: list[str]) -> str:
        subject = self.pick(("the {}", "this {}")).format(self.pick(_SUBJECTS[self.sex]))
        if not units:
            return _sentence(f"{subject} is {self.place()}" if "background" in self.said else f"here we see {subject}")
        first, rest = units[:2], units[2:]
        sentences = [f"{subject} " + _listed([self.predicate(unit, False) for unit in first])]
        sentences += [self.owned(unit) for unit in rest]
        if "background" in self.said:
            sentences.insert(int(next(self._draws) * (len(sentences) + 1)), self.scene())
        return " ".join(map(_sentence, sentences))

    def list(self, units: list[str]) -> str:
        adjectives = int(next(self._draws) * 2)
        parts = [self.subject(units, adjectives)] + [self.thing(unit) for unit in units]
        if "background" in self.said:
            parts.insert(int(next(self._draws) * (len(parts) + 1)), f"{self.word('background')} background")
        return ", ".join(parts)


def _listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`"""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
