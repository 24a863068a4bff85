"""Images that are the same bytes as another."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from tqdm import tqdm

from t2f_dist.shard.corpus import Entry, Plan, refused
from t2f_dist.shard.inventory import Inventory
from t2f_dist.shard.manifest import SplitName

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
    shared = [entry for group in sizes.values() if len(group) > 1 for entry in group]
    same: dict[bytes, list[str]] = defaultdict(list)
    with (
        tqdm(total=len(shared), unit="image", desc="duplicates", disable=not progress, mininterval=0.5) as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        for group in pool.map(_hashes, _batches(shared)):
            for name, value in group:
                same[value].append(name)
            bar.update(len(group))
    there = frozenset(stored)
    found = {}
    for value, names in same.items():
        if value and len(names) > 1:
            kept, *others = sorted(names, key=lambda name: (name not in there, name))
            found |= dict.fromkeys(others, kept)
    return found


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


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    rest = iter(entries)
    while batch := list(islice(rest, _TOGETHER)):
        yield batch


def _hashes(entries: list[Entry]) -> list[tuple[str, bytes]]:
    found = []
    for entry in entries:
        try:
            value = hashlib.sha256(entry.image.read()).digest()
        except (OSError, ValueError):
            value = b""  # refused with its reason when its shard is written
        found.append((entry.path, value))
    return found
