"""What a corpus holds, a line an image: by this a later command finds out what has changed since, and what is new."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2f_dist.shard.corpus import Entry, Plan
from t2f_dist.shard.manifest import digest
from t2f_dist.shard.sources import Block, File, Ref, hdf5
from t2f_dist.shard.sources.webdataset import Slice
from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder

NAME = "corpus.jsonl"
_THREADS = 16  # that read embeddings, for files that are far away


@dataclass(frozen=True)
class Item:
    """One image, or a name that a caption or a voice gives and that is no image.

    Attributes:
        facts: 16 hexadecimal digits over its size, captions, their embeddings if the corpus brings them, identity,
            voice, side of the split, and what of it is refused; no time and no place.
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

        Embeddings of the corpus are read for it: made by another model, they have the size of those before.

        Raises:
            OSError: one cannot be asked for them, though it was there a moment ago.
        """
        read = _Read.of(entry for entries in plan.splits.values() for entry in entries)
        facts: dict[str, list[Any]] = defaultdict(list)
        measured: dict[str, tuple[Entry, int, str]] = {}
        for split, entries in plan.splits.items():
            for entry in entries:
                size, stamp = _measure(entry.image, read)
                heard = None
                if entry.voice:
                    voice = entry.voice.content
                    heard, stamp = [entry.voice.source, voice.size], f"{stamp} {voice.stamp}"
                rows = [[row, read.marks[block]] for block, row in entry.embeddings.rows] if entry.embeddings else None
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


@dataclass(frozen=True)
class _Read:
    """What is known only after reading: the lengths of images in HDF5 files, and a hash of each block of embeddings."""

    lengths: dict[hdf5.Bytes, int]
    marks: dict[Block, str]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> _Read:
        found = cls({}, {})
        inside: defaultdict[str, dict[hdf5.Bytes | hdf5.Hdf5Block, None]] = defaultdict(dict)  # files open once
        blocks: dict[Block, None] = {}
        for entry in entries:
            if isinstance(entry.image, hdf5.Bytes):
                inside[entry.image.path][entry.image] = None
            for block, _ in entry.embeddings.rows if entry.embeddings else ():
                if isinstance(block, hdf5.Hdf5Block):
                    inside[block.path][block] = None
                else:
                    blocks[block] = None
        for path, refs in inside.items():
            with hdf5.opened(path) as file:
                for ref in refs:
                    if isinstance(ref, hdf5.Bytes):
                        found.lengths[ref] = hdf5.walked(file, ref.dataset).nbytes
                    else:
                        found.marks[ref] = _mark(functools.partial(_values, file, ref.dataset))
        with ThreadPoolExecutor(_THREADS) as pool:
            found.marks.update(zip(blocks, pool.map(lambda block: _mark(block.read), blocks)))
        return found


def _values(file: Any, dataset: str) -> np.ndarray:
    try:
        return np.asarray(hdf5.walked(file, dataset)[()], dtype=np.float32)
    except (OSError, RuntimeError, KeyError, TypeError) as error:  # which of them depends on where the damage is
        raise ValueError(f"{dataset}: {error}") from None


def _mark(read: Callable[[], np.ndarray]) -> str:
    try:
        values = read()
    except ValueError:
        return ""  # refused with its reason when its shard is written
    return digest(str(values.shape).encode() + np.ascontiguousarray(values).tobytes())[:16]


def _measure(ref: Ref, read: _Read) -> tuple[int, str]:
    if isinstance(ref, File):
        return ref.size, ref.stamp
    if isinstance(ref, Slice):
        return ref.length, ref.stamp or _stamp(ref.path)
    assert isinstance(ref, hdf5.Bytes)
    return read.lengths[ref], _stamp(ref.path)


@functools.lru_cache(maxsize=100_000)
def _stamp(path: str) -> str:
    folder, name = url.split(path)
    entry = Folder(folder).entry(name)
    if entry is None:
        raise FileNotFoundError(f"no such file: {url.shown(path)}")
    return f"{entry.size} {entry.stamp}"
