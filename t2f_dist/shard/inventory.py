"""What a corpus holds, a line an image: by this a later command finds out what has changed since, and what is new."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from t2f_dist.shard.corpus import Entry, Plan
from t2f_dist.shard.manifest import digest
from t2f_dist.shard.sources import File, Ref
from t2f_dist.shard.sources.hdf5 import Bytes
from t2f_dist.shard.sources.webdataset import Slice
from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder

NAME = "corpus.jsonl"


@dataclass(frozen=True)
class Item:
    """One image, or a name that a caption or a voice gives and that is no image.

    Attributes:
        facts: 16 hexadecimal digits over its size, captions, identity, voice, side of the split, and what of it is
            refused; no time and no place.
        key: of the sample; None of what is no image, or refused before it is opened.
        size: in bytes; -1 where it is known only after reading.
        stamp: of the file that holds it: changes with the content, for as long as the file stands there.
    """

    facts: str
    key: str | None
    size: int = -1
    stamp: str = ""


@dataclass(frozen=True)
class Changes:
    """Names, each in sorted order."""

    added: list[str]
    removed: list[str]
    changed: list[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        parts = []
        for what, names in (("added", self.added), ("removed", self.removed), ("changed", self.changed)):
            if names:
                parts.append(f"{len(names)} {what} (such as {names[0]!r})")
        return ", ".join(parts)


class Inventory:
    """Items by name."""

    def __init__(self, items: dict[str, Item]):
        self.items = items

    @classmethod
    def of(cls, plan: Plan) -> Inventory:
        """Of a plan, with the size and stamp of every file that becomes part of a sample.

        Raises:
            OSError: one cannot be asked for them, though it was there a moment ago.
        """
        facts: dict[str, list[Any]] = defaultdict(list)
        measured: dict[str, tuple[Entry, int, str]] = {}
        for split, entries in plan.splits.items():
            for entry in entries:
                size, stamp = _measure(entry.image)
                heard = None
                if entry.voice:
                    voice = entry.voice.content
                    heard, stamp = [entry.voice.source, voice.size], f"{stamp} {voice.stamp}"
                rows = [row for _, row in entry.embeddings.rows] if entry.embeddings else None
                facts[entry.path].append([split, size, entry.identity, entry.captions, heard, rows])
                measured[entry.path] = entry, size, stamp
        for refusal in plan.refusals:
            facts[refusal.image].append([refusal.kind, refusal.status, refusal.reason, refusal.value, refusal.where])
        items = {}
        for name, found in facts.items():
            entry, size, stamp = measured.get(name, (None, -1, ""))
            brief = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
            items[name] = Item(brief, entry.key if entry else None, size, stamp)
        return cls(items)

    def lines(self, stamps: bool = False) -> bytes:
        """As a file: an array of name, facts and key a line, by name; with `stamps`, the size and stamp too."""
        rows = []
        for name in sorted(self.items):
            item = self.items[name]
            rows.append(json.dumps([name, item.facts, item.key, *([item.size, item.stamp] if stamps else [])]))
        return "".join(row + "\n" for row in rows).encode()

    @classmethod
    def parse(cls, content: bytes, shown: str) -> Inventory:
        """Raises ValueError, naming `shown`, where it is not what `lines` writes."""
        items = {}
        try:
            for line in content.splitlines():
                name, *values = json.loads(line)
                items[name] = Item(*values)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{shown} is damaged ({error}); build again with --overwrite") from None
        return cls(items)

    @functools.cached_property
    def sha256(self) -> str:
        return digest(self.lines())

    def changes(self, now: Inventory, stamps: bool = False) -> Changes:
        """What differs; with `stamps`, a file that was written anew has changed too."""
        return Changes(
            added=sorted(now.items.keys() - self.items.keys()),
            removed=sorted(self.items.keys() - now.items.keys()),
            changed=sorted(
                name
                for name, item in self.items.items()
                if name in now.items and _seen(item, stamps) != _seen(now.items[name], stamps)
            ),
        )

    def keys(self) -> set[str]:
        return {item.key for item in self.items.values() if item.key is not None}

    def with_names_of(self, other: Inventory, names: Iterable[str]) -> Inventory:
        """This one, with the items that another has for some names in place of its own."""
        return Inventory(self.items | {name: other.items[name] for name in names if name in other.items})


def _seen(item: Item, stamps: bool) -> tuple[str, ...]:
    # The key of an image may change when others come to the corpus; its content does not.
    return (item.facts, item.stamp) if stamps else (item.facts,)


def _measure(ref: Ref) -> tuple[int, str]:
    if isinstance(ref, File):
        return ref.size, ref.stamp
    if isinstance(ref, Slice):
        return ref.length, ref.stamp or _stamp(ref.path)
    assert isinstance(ref, Bytes)
    return -1, _stamp(ref.path)


@functools.lru_cache(maxsize=100_000)
def _stamp(path: str) -> str:
    folder, name = url.split(path)
    entry = Folder(folder).entry(name)
    if entry is None:
        raise FileNotFoundError(f"no such file: {url.shown(path)}")
    return f"{entry.size} {entry.stamp}"
