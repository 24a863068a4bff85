"""Changes to the bytes of a file or to the values of a JSON, drawn by hypothesis or by a random generator."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

Sort = Literal["flip", "set", "cut", "insert", "repeat", "swap", "end"]
SORTS: tuple[Sort, ...] = ("flip", "set", "cut", "insert", "repeat", "swap", "end")
# What readers stumble over: digits, signs, ends of text, path steps, marks of formats.
MORSELS = (
    b"\0", b"\xff", b"-", b"9" * 12, b"../", b"\n", b"\\", b'"', b"{", b"[" * 50, b"\x80" + b"\xff" * 11, b"path=",
    b"\xff\xda", b"\xd8\x00", b"1e999", b"null", b"x" * 600, b"\0" * 512, b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3.5, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, float("nan"), float("inf"), "", "x", "../x",
    "/etc/passwd", "file:///etc/passwd", "pipe:touch /tmp/x", "http://[::1", "s3://", "a\nb", "\ud800",
    "x" * 5000, "0" * 64, [], {}, [[]], {"a": 1}, [None] * 100,
)  # fmt: skip
NESTED_DEPTH = 120


@dataclass(frozen=True)
class Mutation:
    """Of bytes: what is done, where, over how much of it, with what. Places and lengths are shares."""

    sort: Sort
    place: float
    other: float
    length: float
    value: int

    def of(self, content: bytes, step: int) -> bytes:
        """The content changed; what moves does so by whole steps, such as the blocks of a tar, half of the time."""
        if not content:
            return content
        step = step if self.value % 2 else 1
        start = int(self.place * len(content)) // step * step
        other = int(self.other * len(content)) // step * step
        size = max(1, int(self.length**4 * len(content)) // step) * step
        if self.sort == "flip":
            place = int(self.place * len(content))
            return content[:place] + bytes([content[place] ^ 1 << self.value % 8]) + content[place + 1 :]
        if self.sort == "set":
            place = int(self.place * len(content))
            morsel = MORSELS[self.value % len(MORSELS)]
            return content[:place] + morsel + content[place + len(morsel) :]
        if self.sort == "cut":
            return content[:start] + content[start + size :]
        if self.sort == "insert":
            return content[:start] + MORSELS[self.value % len(MORSELS)] + content[start:]
        if self.sort == "repeat":
            return content[:other] + content[start : start + size] + content[other:]
        if self.sort == "swap":
            first, second = sorted((start, other))
            size = min(size, second - first)
            one, two = content[first : first + size], content[second : second + size]
            return content[:first] + two + content[first + size : second] + one + content[second + size :]
        return content[:start]


Mutations = tuple[Mutation, ...]
_SHARE = st.floats(0, 1, exclude_max=True)
MUTATIONS: st.SearchStrategy[Mutations] = st.lists(
    st.builds(Mutation, st.sampled_from(SORTS), _SHARE, _SHARE, _SHARE, st.integers(0, 1 << 16)), min_size=1, max_size=3
).map(tuple)


def drawn(generator: random.Random) -> Mutations:
    """The same by a generator."""
    share = generator.random
    return tuple(
        Mutation(generator.choice(SORTS), share(), share(), share(), generator.randrange(1 << 16))
        for _ in range(generator.choice((1, 1, 1, 2, 3)))
    )


def mutated(content: bytes, mutations: Mutations, step: int = 1) -> bytes:
    for mutation in mutations:
        content = mutation.of(content, step)
    return content


def altered(content: Any, mutations: Mutations) -> Any:
    """A JSON with values, keys or whole parts of it replaced."""
    content = copy.deepcopy(content)
    for mutation in mutations:
        places = list(_places(content))
        parent, key = places[int(mutation.place * len(places))]
        value: Any = VALUES[mutation.value % len(VALUES)]
        if mutation.sort == "cut":
            del parent[key]
        elif mutation.sort == "swap":
            there, other = places[int(mutation.other * len(places))]
            if key in _keys(parent) and other in _keys(there):
                parent[key], there[other] = copy.deepcopy(there[other]), copy.deepcopy(parent[key])
        elif mutation.sort == "repeat":
            if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
            else:
                parent[f"{key}x"] = copy.deepcopy(parent[key])
        elif mutation.sort == "insert":
            for _ in range(NESTED_DEPTH if mutation.value % 3 == 0 else 1):
                value = [value]
            parent[key] = value
        elif mutation.sort == "flip" and type(parent[key]) is int:
            parent[key] ^= 1 << mutation.value % 64
        else:
            parent[key] = value
        if not isinstance(content, dict) or not list(_places(content)):
            break
    return content


def _keys(parent: Any) -> Any:
    return range(len(parent)) if isinstance(parent, list) else parent


def _places(content: Any) -> Any:
    pairs = enumerate(content) if isinstance(content, list) else content.items() if isinstance(content, dict) else ()
    for key, value in list(pairs):
        yield content, key
        yield from _places(value)
