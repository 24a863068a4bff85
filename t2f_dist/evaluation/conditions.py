"""Conditions as a snapshot reads them: of a person who asks, or of samples in shards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from t2f_dist.config.condition import MODALITIES, Stored
from t2f_dist.data.batch import Inputs, collate_condition
from t2f_dist.data.order import Place
from t2f_dist.data.shards import Cache, Shards
from t2f_dist.evaluation.held import Held, cache_of, read
from t2f_dist.evaluation.modalities import READERS, Modality
from t2f_dist.models.snapshot import Snapshot
from t2f_dist.shard.format import DamagedSample
from t2f_dist.text.sentence import check

NOUNS = {"caption": "a caption", "speech": "a voice", "identity": "an identity"}
FLAGS = {
    "caption": "--caption TEXT, or --captions FILE with one a line",
    "speech": "--voice FILE, or --voices DIR",
    "identity": "--identity NAME",
}

Condition = Mapping[str, np.ndarray]
"""Modality -> values of length 1 or more; what is missing is not in it."""


@dataclass(frozen=True)
class Asked:
    """What the faces of a grid are drawn for.

    Attributes:
        rows: a label each; one that is empty where there is no condition.
        columns: a label each; none where columns differ by noise alone.
        cells: the conditions, row by row: rows x columns, or one a row.
        notes: lines for the person who asks.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Condition, ...]
    notes: tuple[str, ...] = ()


class Conditions:
    """What a snapshot can be asked with.

    Args:
        snapshot: whose generator is asked.
        model: folder of the sentence encoder for new captions, where the snapshot reads captions by one.
        cache: makes that of remote shards; None: as the snapshot's configuration says.

    Raises ValueError where the snapshot does not hold what its conditions are read with, or a model has no use or is
    none; FileNotFoundError where its folder is missing.
    """

    def __init__(self, snapshot: Snapshot, model: Path | None = None, cache: Callable[[], Cache] | None = None):
        self.cache = cache or cache_of()
        self.sections = snapshot.config.condition.modalities
        if model is not None and not isinstance(self.sections.get("caption"), Stored):
            raise ValueError(f"--embed {model}: this snapshot reads no caption by a sentence encoder; leave it out")
        if model is not None:
            check(model)  # before its files are read to be compared
        self.modalities: dict[str, Modality] = {
            name: READERS[type(section)](snapshot, section, model) for name, section in self.sections.items()
        }

    def needed(self, names: Collection[str]) -> list[str]:
        """Those modalities that the snapshot must have as well when it is asked with these."""
        return [name for name, section in self.sections.items() if name not in names and not section.dropout]

    def check(self, names: Collection[str]) -> None:
        """Raise ValueError where the snapshot cannot be asked with just these modalities."""
        for name in names:
            if name not in self.sections:
                flag = FLAGS[name].split()[0]
                raise ValueError(
                    f"this snapshot was not trained with {NOUNS[name]} (condition.{name} is null): leave {flag} out"
                )
        if self.sections and not names:
            noun = NOUNS[next(iter(self.sections))].split()[1] if len(self.sections) == 1 else "condition"
            raise ValueError(f"no {noun}: give {'; '.join(FLAGS[name] for name in self.sections)}")
        for name in self.needed(names):
            raise ValueError(
                f"this snapshot was trained with {NOUNS[name]} for every face (condition.{name}.dropout is 0):"
                f" give {FLAGS[name]}, or train with a dropout above 0"
            )

    def asked(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str] | None = None) -> Asked:
        """By modality, what a person gives: captions, paths of voices, names of identities.

        names: labels for some of them, in place of those that they have by themselves.
        Voices are columns where anything else is given as well. Rows are all combinations of the rest.

        Raises ValueError and FileNotFoundError for what cannot be read, or cannot be asked with.
        """
        given = [name for name in MODALITIES if texts.get(name)]
        self.check(given)
        across = ["speech"] if "speech" in given and len(given) > 1 else []
        down = [name for name in given if name not in across]
        values = {name: [self.modalities[name].asked(text) for text in texts[name]] for name in given}
        own = names or {}
        labels = {name: [own.get(text) or self.modalities[name].label(text) for text in texts[name]] for name in given}
        conditions = product(*(values[name] for name in [*down, *across]))
        return Asked(
            rows=tuple(", ".join(parts) for parts in product(*(labels[name] for name in down))),
            columns=tuple(label for name in across for label in labels[name]),
            cells=tuple(dict(zip([*down, *across], each, strict=True)) for each in conditions),
            notes=tuple(
                note
                for name in given
                for text in dict.fromkeys(texts[name])
                if (note := self.modalities[name].note(text))
            ),
        )

    def of_shards(self, folder: str | Path, split: str, num: int) -> Asked:
        """Of the first samples of a split, no two of the same label; of those that lack nothing, if there are any.

        Raises ValueError and FileNotFoundError where the shards cannot be read, are not of the kind that the snapshot
        was trained with, or hold no condition that it can be asked with.
        """
        if not self.sections:
            raise ValueError("this snapshot draws without any condition: leave --shards out")
        shards = self.open(folder, split, self.sections)
        try:
            found = self._first(shards, num, [])
            partial = [name for name in self.sections if name not in self.needed([])]
            found = found or self._first(shards, num, partial)
        finally:
            shards.close()
        if not found:
            nouns = " and ".join(NOUNS[name] for name in self.sections)
            raise ValueError(f"no sample of the split {split} in {folder} has {nouns}, with which this snapshot draws")
        return Asked(tuple(found), (), tuple(found.values()))

    def open(self, folder: str | Path, split: str, names: Collection[str]) -> Shards:
        """The shards of a split, in these modalities of the kind that the snapshot was trained with; the caller closes.

        Raises ValueError and FileNotFoundError where they are not.
        """
        shards = Shards(folder, split, self.cache)
        for name in names:
            self.modalities[name].check(shards.manifest, folder)
        return shards

    def _first(self, shards: Shards, num: int, may_lack: Sequence[str]) -> dict[str, Condition]:
        found: dict[str, Condition] = {}
        for number, shard in enumerate(shards.listed):
            shards.reads([number])  # what is open cannot be evicted from the cache
            for row in range(shard.num_samples):
                try:
                    sample = read(shards, Place(number, row), choice=0)
                    condition = self.held(sample)
                except DamagedSample:
                    continue  # `t2f-dist verify` names it
                if not condition or any(name not in condition and name not in may_lack for name in self.sections):
                    continue
                found.setdefault(_label(sample, condition), condition)
                if len(found) == num:
                    return found
        return found

    def held(self, sample: Held) -> Condition:
        """All that a sample has of what the snapshot reads. Raises DamagedSample."""
        values = {name: modality.held(sample) for name, modality in self.modalities.items()}
        return {name: value for name, value in values.items() if len(value)}

    def inputs(self, conditions: Sequence[Condition]) -> Inputs:
        """For the generator: padded together, with what is missing as of length 0."""
        absent = {name: modality.absent for name, modality in self.modalities.items()}
        return collate_condition([{**absent, **condition} for condition in conditions])


def _label(sample: Held, condition: Condition) -> str:
    voice = f"voice of {sample.key}" if "speech" in condition else ""
    if "caption" in condition:
        return f"{sample.caption} ({voice})" if voice else sample.caption
    return voice or sample.identity_name
