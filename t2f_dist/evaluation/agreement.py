"""Caption agreement: the share of images whose attributes, read from the pixels, are those that the caption names.

Three shares stand side by side, attribute by attribute, each over the captions that name the attribute:

    generated   images drawn for the captions
    chance      real portraits against captions shuffled among them: what a generator deaf to its captions, but else
                perfect, would reach
    real        real portraits against their own captions: what the reader itself allows

No attribute counts more than another in the mean, however often captions name it. An unnamed attribute is not
counted; a named hair colour disagrees with a head that is read as bald.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2f_dist.portraits.attributes import ATTRIBUTES

UNNAMED = -2
"""The label of an attribute that a caption does not name. No reader gives it (-1 is the hair colour of the bald)."""

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


def agreement(read: Read, named: Named) -> dict[str, float]:
    """Attribute -> share in [0, 1] of the captions naming it with whose image it agrees; nan if none names it.

    read: attribute -> LongTensor [N], as a reader gives it; named: what each of the N captions names.
    Raises ValueError when N differs between the two.
    """
    return _shares(_checked(read, len(named)), labels(named))


def chance(read: Read, named: Named, num_shuffles: int = 50, seed: int = 0) -> dict[str, float]:
    """`agreement` after shuffling the captions among the images, the mean over `num_shuffles` shuffles.

    Raises ValueError as `agreement` does, and when num_shuffles is below 1.
    """
    if num_shuffles < 1:
        raise ValueError(f"num_shuffles must be at least 1, got {num_shuffles}")
    read, truth = _checked(read, len(named)), labels(named)
    total = dict.fromkeys(ATTRIBUTES, 0.0)
    for shuffle in range(num_shuffles):
        random = np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, 0, shuffle]))
        order = torch.from_numpy(random.random(len(named)).argsort(kind="stable"))
        for name, share in _shares(read, {name: label[order] for name, label in truth.items()}).items():
            total[name] += share
    return {name: value / num_shuffles for name, value in total.items()}


def mean(shares: Mapping[str, float]) -> float:
    """Over the attributes that any caption names; nan if there is none."""
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
            raise ValueError(f"{name} was read from {list(read[name].shape)} images for {num} captions: give as many")
    return {name: read[name].cpu() for name in ATTRIBUTES}


@dataclass(frozen=True)
class Row:
    """One attribute: how many captions name it, and the shares (0...1, nan if none does)."""

    num_named: int
    generated: float
    chance: float
    real: float


@dataclass(frozen=True)
class CaptionAgreement:
    """The table: a row an attribute, and their mean."""

    num_captions: int
    rows: dict[str, Row]
    mean: Row

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan: None where nothing was counted."""

        def plain(row: Row) -> dict[str, float | int | None]:
            return {key: None if math.isnan(value) else value for key, value in asdict(row).items()}

        rows = {name: plain(row) for name, row in self.rows.items()}
        return {"num_captions": self.num_captions, "mean": plain(self.mean), "attributes": rows}

    def format(self) -> str:
        """A table to print; no newline at the end."""
        lines = [f"{'caption agreement':<18}{'generated':>10}{'chance':>8}{'real':>8}{'named by':>10}"]
        for name, row in [*self.rows.items(), ("mean", self.mean)]:
            shares = f"{_percent(row.generated):>10}{_percent(row.chance):>8}{_percent(row.real):>8}"
            named_by = f"{row.num_named:>10}" if name != "mean" else f"{'of ' + str(self.num_captions):>10}"
            lines.append(f"{name.replace('_', ' '):<18}{shares}{named_by}")
        return "\n".join(lines)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.3f}"


def caption_agreement(
    generated: Read, real: Read, named: Named, num_shuffles: int = 50, seed: int = 0
) -> CaptionAgreement:
    """The table for N captions: `generated` read from the images drawn for them, `real` from the portraits they were
    written of, both attribute -> LongTensor [N]; `named` what each caption names.

    Raises ValueError as `agreement` and `chance` do.
    """
    columns = {
        "generated": agreement(generated, named),
        "chance": chance(real, named, num_shuffles, seed),
        "real": agreement(real, named),
    }
    counts = {name: sum(name in one for one in named) for name in ATTRIBUTES}
    rows = {
        name: Row(counts[name], **{column: shares[name] for column, shares in columns.items()}) for name in ATTRIBUTES
    }
    overall = Row(sum(counts.values()), **{column: mean(shares) for column, shares in columns.items()})
    return CaptionAgreement(len(named), rows, overall)
