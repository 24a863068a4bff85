"""Images that are the same bytes as another."""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.corpus import Entry, Plan, lacking, refused
from t2f_dist.shard.encode import Rejected, encode_speech
from t2f_dist.shard.extension import Extension
from t2f_dist.shard.inventory import Inventory
from t2f_dist.shard.manifest import SplitName

SAME = "the same bytes as "  # begins the reason of what is dropped
_TOGETHER = 64  # images a thread takes at once


def among(
    corpus: Plan, inventory: Inventory, added: Extension | None, recipe: ShardRecipe, threads: int, progress: bool
) -> dict[str, str]:
    """As `duplicates`, of a corpus, or of what is new in it beside what is stored. Raises OSError."""
    entries = [entry for side in corpus.splits.values() for entry in side]
    stored: frozenset[str] = frozenset()
    if added:  # what was stored of a file that has changed since is not what is in it now
        stored = added.stored - added.changed
        new = added.names
        entries = [entry for entry in entries if entry.path in stored or entry.path in new]
    return duplicates(entries, inventory, stored, recipe, threads, progress)


def duplicates(
    entries: Iterable[Entry],
    inventory: Inventory,
    stored: Iterable[str],
    recipe: ShardRecipe,
    threads: int,
    progress: bool,
) -> dict[str, str]:
    """Name -> the image that is kept, for every image with the bytes of another.

    Kept is the first that `stored` names; else the first by name that will be stored, if one will: all have the same
    picture, but the voice of one, or its embeddings, may be broken. Only images that share their size in bytes are
    read. An image that cannot be read is like no other.

    Raises:
        OSError: the system fails at an image, which says nothing of it.
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
        group.sort(key=lambda entry: (entry.path not in there, entry.path))
        kept = group[0]
        if recipe.duplicates == "drop" and kept.path not in there:
            kept = next((entry for entry in group if _complete(entry, recipe)), kept)
        found |= {entry.path: kept.path for entry in group if entry is not kept}
    return found


def _complete(entry: Entry, recipe: ShardRecipe) -> bool:
    """Whether an image whose picture is sound will be stored with what else it needs."""
    if entry.voice and lacking(replace(entry, voice=None), recipe):
        try:
            encode_speech(entry.voice.content, recipe.audio)
        except Rejected:
            return False
    if entry.embeddings:
        try:
            entry.embeddings.read()
        except ValueError:
            return False
    return True


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
    """Raises OSError."""
    try:
        return mark(entry.image.read())
    except (FileNotFoundError, ValueError):
        return b""  # refused with its reason when its shard is written
    except OSError as error:  # says nothing of the image, so nothing is decided by it
        raise OSError(f"{entry.path}: {error.strerror or error}, while duplicates were looked for") from None


def _crc32(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "big")


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
