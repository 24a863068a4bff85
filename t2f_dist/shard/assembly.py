"""The end of a build: from the records of all shards to vocabulary, refusals and manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.corpus import Plan, main_reason
from t2f_dist.shard.duplicates import SAME
from t2f_dist.shard.extension import Extension
from t2f_dist.shard.inventory import Inventory
from t2f_dist.shard.ledger import Ledger
from t2f_dist.shard.manifest import (
    KINDS,
    MANIFEST,
    REJECTED,
    SPLITS,
    VOCABULARY,
    Embedding,
    Kind,
    Manifest,
    RejectedFile,
    Shard,
    Split,
    SplitName,
    Totals,
    VocabularyFile,
    digest,
)
from t2f_dist.shard.task import Task
from t2f_dist.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Assembly:
    """What the manifest is made of, beside the records.

    Attributes:
        plan: of the corpus, or of what is new in it.
        inventory: of all that is stored, and of what is refused.
        duplicates: how many images have the bytes of another; None: not looked for.
        extension: of finished shards; None: a build from nothing.
    """

    recipe: ShardRecipe
    plan: Plan
    inventory: Inventory
    embedding: Embedding | None
    duplicates: int | None
    extension: Extension | None

    def write(self, ledger: Ledger, tasks: Sequence[Task], build: str) -> Manifest:
        """Write all files but the shards, the manifest last, and remove what is not named in it.

        The manifest of finished shards stays valid until the new one takes its place.

        Raises:
            ValueError: no sample of train is usable.
            FileNotFoundError: a record is missing.
        """
        shards: dict[SplitName, list[Shard]] = {split: [] for split in SPLITS}
        stored: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        refusals = list(self.plan.refusals)
        for task, outcome in zip(tasks, ledger.outcomes([task.name for task in tasks], build)):
            if outcome is None:
                raise FileNotFoundError(f"{ledger.shown} has no record of {task.name}; run the same command again")
            if outcome.shard:
                shards[task.split].append(outcome.shard)
            refusals += outcome.refusals
            stored += outcome.stored
            if task.split == "train":  # what a model has not seen in training, it does not know
                counts += outcome.counts
        rows = [*(self.extension.kept if self.extension else []), *(refusal.row() for refusal in refusals)]
        rejected = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "replace")
        ledger.out.write(self._named(REJECTED), rejected)
        old = self.extension.manifest if self.extension else None
        if not shards["train"] and not old:
            for name in ledger.ours().keys() - {REJECTED}:
                ledger.out.delete(name)
            ledger.clear()
            raise ValueError(f"no usable sample in train{main_reason(refusals)}; see {ledger.shown}/{REJECTED}")
        inventory = self.inventory.lines()
        ledger.out.write(self._named("corpus.jsonl"), inventory)
        recipe = self.recipe.model_dump(mode="json", exclude={"out"})  # the same shards elsewhere are the same shards
        manifest = Manifest(
            recipe=old.recipe if old else recipe,
            extensions=(*old.extensions, recipe) if old else (),
            corpus_sha256=digest(inventory),
            image_resolution=self.recipe.image.resolution,
            image_format=self.recipe.image.format,
            sample_rate_hz=self.recipe.audio.sample_rate_hz if self.recipe.speech else None,
            vocabulary=self._vocabulary(ledger, counts),
            embedding=self.embedding,
            rejected=RejectedFile(file=self._named(REJECTED), sha256=digest(rejected)),
            duplicates=self._duplicates(),
            splits={split: _split(old, split, shards[split]) for split in SPLITS},
            totals=self._totals(stored, rows),
        )
        manifest.save(ledger.out.place)
        sweep(ledger, manifest)
        return manifest

    def _named(self, name: str) -> str:
        return versioned(name, self.extension.number if self.extension else 0)

    def _vocabulary(self, ledger: Ledger, counts: Counter[str]) -> VocabularyFile | None:
        if self.recipe.captions is None:
            return None
        text = self.recipe.text
        if self.extension:
            vocabulary = self.extension.vocabulary(ledger.out, counts, self.recipe)
        else:
            vocabulary = Vocabulary.from_counts(counts, text.min_count, text.max_words)
        content = vocabulary.to_json().encode()
        ledger.out.write(self._named(VOCABULARY), content)
        return VocabularyFile(file=self._named(VOCABULARY), sha256=digest(content), num_words=len(vocabulary.words))

    def _duplicates(self) -> int | None:
        if self.duplicates is None or self.extension is None:
            return self.duplicates
        again = sum(row["kind"] == "images" and row["reason"].startswith(SAME) for row in self.extension.gone)
        return self.duplicates + (self.extension.manifest.duplicates or 0) - again

    def _totals(self, stored: Counter[str], rows: list[dict[str, Any]]) -> dict[Kind, Totals]:
        """What is not stored is in exactly one row; what was found was counted before any of it was looked at."""
        refused = Counter((row["kind"], row["status"]) for row in rows)
        old, gone = {}, Counter[str]()
        if self.extension:
            old = self.extension.manifest.totals
            gone.update(row["kind"] for row in self.extension.gone)  # is judged anew, and found anew
        totals: dict[Kind, Totals] = {}
        for kind in KINDS:
            if kind not in old and kind not in self.plan.found:
                continue
            totals[kind] = Totals(
                found=self.plan.found[kind] + (old[kind].found - gone[kind] if kind in old else 0),
                stored=stored[kind] + (old[kind].stored if kind in old else 0),
                rejected=refused[kind, "rejected"],
                unmatched=refused[kind, "unmatched"],
            )
        return totals


def _split(old: Manifest | None, split: SplitName, shards: list[Shard]) -> Split:
    both = (*(old.shards(split) if old else ()), *shards)
    return Split(num_samples=sum(shard.num_samples for shard in both), shards=both)


def versioned(name: str, number: int) -> str:
    """A file of the n-th extension: rejected.jsonl, rejected-1.jsonl, ..."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{number}{dot}{suffix}" if number else name


def corpus_file(manifest: Manifest) -> str:
    """The name of the inventory beside a manifest."""
    return versioned("corpus.jsonl", len(manifest.extensions))


def sweep(ledger: Ledger, manifest: Manifest) -> None:
    """Remove the records, and every file of ours that a finished directory does not need."""
    needed = {MANIFEST, manifest.rejected.file, corpus_file(manifest)}
    if manifest.vocabulary:
        needed.add(manifest.vocabulary.file)
    for split in SPLITS:
        for shard in manifest.shards(split):
            needed |= {shard.name, shard.index, shard.small}
    ledger.clear_cut_off()
    ledger.clear()
    for name in ledger.ours():
        if name not in needed:
            ledger.out.delete(name)
