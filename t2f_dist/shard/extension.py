"""A corpus that has grown, against finished shards: what is new, and what of the old stays as it is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from t2f_dist.config.recipe import ShardRecipe, differences
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.corpus import Entry, Plan, distinct
from t2f_dist.shard.inventory import Inventory
from t2f_dist.shard.manifest import Kind, Manifest, SplitName, digest
from t2f_dist.storage.folder import Folder
from t2f_dist.text.vocabulary import Vocabulary
from t2f_dist.text.words import words


@dataclass(frozen=True)
class Extension:
    """What is added to finished shards.

    An image counts as stored if one of the same name is. It then stays as it is, with its captions and voice, though
    the corpus may say otherwise now. What was refused is judged anew if anything about it has changed.

    Attributes:
        manifest: of the finished shards.
        plan: of what is new: no entry of it is stored, and nothing is found in it that was judged before.
        kept: the rows of rejected.jsonl that stay: of all that is not judged anew.
        gone: the other rows.
        stored: the names of the stored images.
        changed: those of them that are in the corpus, but not as they were when they were stored.
        inventory: of the corpus now, and of what has left it.
    """

    manifest: Manifest
    plan: Plan
    kept: list[dict[str, Any]]
    gone: list[dict[str, Any]]
    stored: frozenset[str]
    changed: frozenset[str]
    inventory: Inventory

    @property
    def number(self) -> int:
        """Of the extension, from 1 on: the versions of the files that it replaces have it in their names."""
        return len(self.manifest.extensions) + 1

    @property
    def names(self) -> frozenset[str]:
        """Of the images that are new."""
        return frozenset(entry.path for side in self.plan.splits.values() for entry in side)

    def first(self, split: SplitName) -> int:
        """The number of its first new shard."""
        numbers = [int(shard.name.split("-")[1].split(".")[0]) for shard in self.manifest.shards(split)]
        return max(numbers, default=-1) + 1

    def vocabulary(self, folder: Folder, counts: Counter[str], recipe: ShardRecipe) -> Vocabulary:
        """The vocabulary with the words that are new in train, their counts in the new shards given.

        Raises:
            ValueError, OSError: a file of the finished shards is damaged or missing.
        """
        old = Vocabulary.from_json(self.manifest.read_vocabulary(folder.place))
        if recipe.text.min_count > 1:  # else every old word is in it
            counts = counts + _counted(folder, self.manifest)
        return old.extended(counts, recipe.text.min_count, recipe.text.max_words)


def extension(manifest: Manifest, before: Inventory, plan: Plan, now: Inventory, folder: Folder) -> Extension:
    """Of finished shards, for the plan of the corpus as it is now.

    Args:
        before: the inventory of the finished shards.
        now: that of the plan.

    Raises:
        ValueError, OSError: rejected.jsonl is damaged or missing.
    """
    rows = read_rejected(manifest, folder)
    refused = {row["image"] for row in rows if row["kind"] == "images"}
    stored = frozenset(name for name, item in before.items.items() if item.key and _written(name) not in refused)
    taken = before.keys()
    settled = stored | {
        name for name, item in now.items.items() if name in before.items and item.facts == before.items[name].facts
    }
    splits: dict[SplitName, list[Entry]] = {
        split: [_free(entry, taken) for entry in entries if entry.path not in settled]
        for split, entries in plan.splits.items()
    }
    refusals = [refusal for refusal in plan.refusals if refusal.image not in settled]
    judged_before = Counter[Kind](refusal.kind for refusal in plan.refusals if refusal.image in settled)
    for entry in (entry for entries in plan.splits.values() for entry in entries if entry.path in settled):
        judged_before.update(images=1, captions=len(entry.captions), voices=int(entry.voice is not None))
    found = Counter(plan.found)
    found.subtract(judged_before)
    keys = {entry.path: entry.key for entries in splits.values() for entry in entries}
    judged = {
        name: replace(item, key=keys.get(name, item.key)) for name, item in now.items.items() if name not in settled
    }
    names = {_written(name) for name in judged}
    return Extension(
        manifest=manifest,
        plan=Plan(splits, found, refusals),
        kept=[row for row in rows if row["image"] not in names],
        gone=[row for row in rows if row["image"] in names],
        stored=stored,
        changed=stored.intersection(before.changes(now).changed),
        inventory=Inventory(before.items | judged),
    )


def check_shape(manifest: Manifest, recipe: ShardRecipe, shown: str) -> None:
    """Raises ValueError where new samples would not be like those that are stored."""
    found = differences(manifest.recipe, recipe.model_dump(mode="json", exclude={"out"}), shaping=True)
    if found:
        raise ValueError(
            f"{shown} holds samples of another shape: {', '.join(found)}; --extend needs the recipe that they were"
            " made by, but for paths; or choose another --out"
        )


def read_rejected(manifest: Manifest, folder: Folder) -> list[dict[str, Any]]:
    """The rows of the manifest's rejected file. Raises ValueError where it is damaged, OSError where it is missing."""
    content = folder.read(manifest.rejected.file)
    if digest(content) != manifest.rejected.sha256:
        raise ValueError(f"{folder}/{manifest.rejected.file} is damaged (its checksum does not match); build again")
    return [json.loads(line) for line in content.decode().split("\n") if line]


def _written(name: str) -> str:
    """A name as it stands in rejected.jsonl."""
    return name.encode("utf-8", "replace").decode()


def _free(entry: Entry, taken: set[str]) -> Entry:
    return replace(entry, key=distinct(entry.key, entry.path)) if entry.key in taken else entry


def _counted(folder: Folder, manifest: Manifest) -> Counter[str]:
    """The words of train's captions."""
    counts: Counter[str] = Counter()
    for shard in manifest.shards("train"):
        index = shard_format.parse_index(folder.read(shard.index), shard)
        small = folder.read(shard.small)
        if digest(small) != shard.small_sha256:
            raise ValueError(f"{shard.small} is damaged (its checksum does not match); build the shards again")
        for content in _captions(index, small):
            for caption in shard_format.captions(content):
                counts.update(words(caption))
    return counts


def _captions(index: np.ndarray, small: bytes) -> Iterator[bytes]:
    starts = index["lod_offset"].astype(np.int64) + index["lod_length"]
    for start, length in zip(starts.tolist(), index["captions_length"].tolist()):
        yield small[start : start + length]
