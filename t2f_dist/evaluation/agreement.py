"""Agreement: the share of images whose attributes, read from the pixels, are those of the portrait they are drawn for.

Three shares stand side by side, attribute by attribute, each over the samples whose caption names the attribute:

    generated   images drawn for the samples
    chance      real portraits against captions shuffled among them: what a generator deaf to its conditions, but else
                perfect, would reach
    real        real portraits against their own captions: what the reader itself allows

and two over the other samples, where the truth is what is read from the sample's own portrait. A voice may tell it, or
the caption imply it: a woman has no beard.

    unnamed     images drawn for the samples
    chance      real portraits against each other, shuffled

No attribute counts more than another in a mean, however often captions name it. A named hair colour disagrees with a
head that is read as bald; the hair colour of a portrait that is read as bald is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2f_dist.portraits.attributes import ABSENT, ATTRIBUTES

UNNAMED = -2
"""The label of an attribute that is not counted. No reader gives it (-1 is the hair colour of the bald)."""

_FIRST = next(iter(ATTRIBUTES))

Read = Mapping[str, Tensor]
Named = Sequence[Mapping[str, str]]


def labels(named: Named) -> dict[str, Tensor]:
    """Attribute -> LongTensor [N] of the labels that N captions name, UNNAMED where they do not.

    Raises ValueError for an attribute or a value that ATTRIBUTES does not have.
    """
    for one in named:
        for attribute, value in one.items():
            if value not in ATTRIBUTES.get(attribute, ()):
                raise ValueError(f"no portrait has {attribute} = {value!r}: see t2f_dist.portraits.attributes")
    index = {name: {value: label for label, value in enumerate(values)} for name, values in ATTRIBUTES.items()}
    return {
        name: torch.tensor([index[name][one[name]] if name in one else UNNAMED for one in named], dtype=torch.long)
        for name in ATTRIBUTES
    }


def unnamed(real: Read, named: Named) -> dict[str, Tensor]:
    """Attribute -> LongTensor [N] of the labels read from N portraits, UNNAMED where their captions name them, and for
    the hair colour of the bald.

    Raises ValueError as `agreement` does.
    """
    real, said = _checked(real, len(named)), labels(named)
    return {
        name: label.masked_fill((said[name] != UNNAMED) | (label == ABSENT), UNNAMED) for name, label in real.items()
    }


def agreement(read: Read, truth: Mapping[str, Tensor]) -> dict[str, float]:
    """Attribute -> share in [0, 1] of the samples with a truth with whose image it agrees; nan where none has one.

    read: attribute -> LongTensor [N], as a reader gives it; truth: the same of `labels` or `unnamed`.
    Raises ValueError when N differs between the two.
    """
    return _shares(_checked(read, len(truth[_FIRST])), truth)


def chance(read: Read, truth: Mapping[str, Tensor], num_shuffles: int = 50, seed: int = 0) -> dict[str, float]:
    """`agreement` after shuffling the truth among the images, the mean over `num_shuffles` shuffles.

    Raises ValueError as `agreement` does, and when num_shuffles is below 1.
    """
    if num_shuffles < 1:
        raise ValueError(f"num_shuffles must be at least 1, got {num_shuffles}")
    num = len(truth[_FIRST])
    read = _checked(read, num)
    total = dict.fromkeys(ATTRIBUTES, 0.0)
    for shuffle in range(num_shuffles):
        random = np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, 0, shuffle]))
        order = torch.from_numpy(random.random(num).argsort(kind="stable"))
        for name, share in _shares(read, {name: label[order] for name, label in truth.items()}).items():
            total[name] += share
    return {name: value / num_shuffles for name, value in total.items()}


def mean(shares: Mapping[str, float]) -> float:
    """Over the attributes that are counted for any sample; nan if there is none."""
    counted = [share for share in shares.values() if not math.isnan(share)]
    return sum(counted) / len(counted) if counted else math.nan


def _shares(read: Read, truth: Mapping[str, Tensor]) -> dict[str, float]:
    shares = {}
    for name in ATTRIBUTES:
        counted = truth[name] != UNNAMED
        agrees = (read[name] == truth[name]) & counted
        shares[name] = int(agrees.sum()) / int(counted.sum()) if counted.any() else math.nan
    return shares


def _checked(read: Read, num: int) -> dict[str, Tensor]:
    missing = [name for name in ATTRIBUTES if name not in read]
    if missing:
        raise ValueError(f"attributes not read: {', '.join(missing)}")
    for name in ATTRIBUTES:
        if read[name].shape != (num,):
            raise ValueError(f"{name} was read from {list(read[name].shape)} images for {num} samples: give as many")
    return {name: read[name].cpu() for name in ATTRIBUTES}


@dataclass(frozen=True)
class Row:
    """One attribute: of how many samples it is counted, and the shares (0...1, nan where it is of none)."""

    num_named: int
    generated: float
    chance: float
    real: float
    num_unnamed: int
    unnamed: float
    unnamed_chance: float


@dataclass(frozen=True)
class Agreement:
    """The table: a row an attribute, and their mean."""

    num_samples: int
    rows: dict[str, Row]
    mean: Row

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan: None where nothing was counted."""

        def plain(row: Row) -> dict[str, float | int | None]:
            return {key: None if math.isnan(value) else value for key, value in asdict(row).items()}

        rows = {name: plain(row) for name, row in self.rows.items()}
        return {"num_samples": self.num_samples, "mean": plain(self.mean), "attributes": rows}

    def format(self) -> str:
        """A table to print; no newline at the end."""
        named = f"{'agreement':<18}{'generated':>10}{'chance':>8}{'real':>8}{'named by':>10}"
        lines = [f"{named}{'unnamed':>12}{'chance':>8}{'of':>7}"]
        for name, row in [*self.rows.items(), ("mean", self.mean)]:
            shares = f"{_percent(row.generated):>10}{_percent(row.chance):>8}{_percent(row.real):>8}"
            others = f"{_percent(row.unnamed):>12}{_percent(row.unnamed_chance):>8}"
            each = name != "mean"
            counts = (str(row.num_named), str(row.num_unnamed)) if each else (f"of {self.num_samples}", "")
            lines.append(f"{name.replace('_', ' '):<18}{shares}{counts[0]:>10}{others}{counts[1]:>7}".rstrip())
        return "\n".join(lines)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.3f}"


def compare(generated: Read, real: Read, named: Named, num_shuffles: int = 50, seed: int = 0) -> Agreement:
    """The table for N samples: `generated` read from the images drawn for them, `real` from their own portraits, both
    attribute -> LongTensor [N]; `named` what the caption of each names, nothing where there is none.

    Raises ValueError as `labels` and `chance` do.
    """
    said, others = labels(named), unnamed(real, named)
    columns = {
        "generated": agreement(generated, said),
        "chance": chance(real, said, num_shuffles, seed),
        "real": agreement(real, said),
        "unnamed": agreement(generated, others),
        "unnamed_chance": chance(real, others, num_shuffles, seed),
    }
    counts = {
        "num_named": {name: int((said[name] != UNNAMED).sum()) for name in ATTRIBUTES},
        "num_unnamed": {name: int((others[name] != UNNAMED).sum()) for name in ATTRIBUTES},
    }
    everything: dict[str, dict[str, Any]] = {**columns, **counts}
    rows = {name: Row(**{key: values[name] for key, values in everything.items()}) for name in ATTRIBUTES}
    means = {key: mean(shares) for key, shares in columns.items()}
    totals = {key: sum(values.values()) for key, values in counts.items()}
    return Agreement(len(named), rows, Row(**means, **totals))
