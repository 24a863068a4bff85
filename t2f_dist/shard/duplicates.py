"""Images that are the same bytes as another."""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from t2f_dist.shard.corpus import Entry, Plan, refused
from t2f_dist.shard.inventory import Inventory
from t2f_dist.shard.manifest import SplitName
from t2f_dist.storage.patience import Unreachable

SAME = "the same bytes as "  # begins the reason of what is dropped
_TOGETHER = 64  # images a thread takes at once


def duplicates(
    entries: Iterable[Entry], inventory: Inventory, stored: Iterable[str], threads: int, progress: bool
) -> dict[str, str]:
    """Name -> the image that is kept, for every image with the bytes of another.

    Kept is the first by name, or the first that `stored` names. Only images that share their size in bytes are read.
    An image that cannot be read is like no other.
    """
    sizes: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        sizes[inventory.items[entry.path].size].append(entry)
    shared = _several(sizes)
    same: dict[bytes, list[Entry]] = defaultdict(list)
    with (
        tqdm(total=len(shared), unit="image", desc="duplicates", disable=not progress, mininterval=0.5) as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        # A CRC32 takes a third of the time of a sha256, which then is needed of few.
        alike: dict[tuple[int, bytes], list[Entry]] = defaultdict(list)
        for entry, mark in _marked(pool, shared, _crc32):
            alike[inventory.items[entry.path].size, mark].append(entry)
            bar.update()
        for entry, mark in _marked(pool, _several(alike), _sha256):
            if mark:
                same[mark].append(entry)
    there = frozenset(stored)
    found = {}
    for group in same.values():
        kept, *others = sorted((entry.path for entry in group), key=lambda name: (name not in there, name))
        found |= dict.fromkeys(others, kept)
    return found


def _several(groups: Mapping[Any, list[Entry]]) -> list[Entry]:
    return [entry for group in groups.values() if len(group) > 1 for entry in group]


def without(plan: Plan, found: Mapping[str, str]) -> Plan:
    """A plan in which the images that `found` names, with their captions and voices, are refused."""
    refusals = list(plan.refusals)
    splits: dict[SplitName, list[Entry]] = {}
    for split, entries in plan.splits.items():
        splits[split] = [entry for entry in entries if entry.path not in found]
        for entry in entries:
            if entry.path in found:
                refusals += refused(entry, f"{SAME}{found[entry.path]}")
    return Plan(splits, plan.found, refusals)


def _marked(
    pool: ThreadPoolExecutor, entries: Sequence[Entry], mark: Callable[[bytes], bytes]
) -> Iterator[tuple[Entry, bytes]]:
    """Each entry with a mark of its image's bytes; without one where the image cannot be read."""

    def marks(some: Sequence[Entry]) -> list[tuple[Entry, bytes]]:
        return [(entry, _mark(entry, mark)) for entry in some]

    for found in pool.map(marks, (entries[start : start + _TOGETHER] for start in range(0, len(entries), _TOGETHER))):
        yield from found


def _mark(entry: Entry, mark: Callable[[bytes], bytes]) -> bytes:
    try:
        return mark(entry.image.read())
    except Unreachable:
        raise
    except (OSError, ValueError):
        return b""  # refused with its reason when its shard is written


def _crc32(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "big")


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
