"""Are the ranks still one? All that a step changes, compared over the ranks by a few bytes a tensor.

Each rank computes its own copy of the same weights. Memory that flips a bit, a GPU that computes wrong, or an exchange
that lost its order makes copies differ: the ranks would then average gradients of different networks, and no loss would
show it.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import astuple

import torch
from torch import Tensor

from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase
from t2f_dist.training.launch.ranks import Ranks

ODD = 0x1E3779B97F4A7C15  # so that what is multiplied by it is lost in no bit
CHUNK = {"cpu": 1 << 16, "cuda": 1 << 22}  # elements: what a cache holds; enough for a GPU
INTEGERS = {1: torch.uint8, 4: torch.int32, 8: torch.int64}
NAMED = 3  # tensors that are named; the others are counted


class RanksDiffer(ValueError):
    """The ranks do not hold the same state. All of them raise it.

    Attributes:
        tensors: the names of what differs.
        ranks: those that differ from most; all, where there is no majority.
    """

    def __init__(self, tensors: list[str], ranks: list[int], images_seen: int, majority: bool):
        self.tensors, self.ranks = tensors, ranks
        more = f" and {len(tensors) - NAMED} more" if len(tensors) > NAMED else ""
        who = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
        differ = f"{who} differ{'s' * (len(ranks) == 1)} from most" if majority else f"{who} differ from each other"
        super().__init__(
            f"the ranks no longer train the same networks at {images_seen:,} images: {differ} in"
            f" {', '.join(tensors[:NAMED])}{more}. Nothing of this was saved: start again from the last checkpoint, and"
            " where the same machine is named again, without it"
        )


def compare(gan: Gan, phase: Phase, images_seen: int, ranks: Ranks) -> None:
    """Raise RanksDiffer, on all ranks, where they do not hold the same weights, buffers, moving average, moments,
    scales or place in the schedule, to the bit. All ranks call it at the same step; it waits for the GPU once.
    """
    if ranks.world_size == 1:
        return
    own = fingerprint(gan, phase, images_seen)
    names = list(own)
    head = torch.tensor([zlib.crc32("\n".join(names).encode())])
    heads = ranks.gather(head)[:, 0].tolist()
    if len(set(heads)) > 1:  # then there is no row for row
        odd, majority = _odd(heads)
        raise RanksDiffer(["the set of tensors that have moments"], odd, images_seen, majority)
    table = ranks.gather(torch.tensor(list(own.values())))  # [ranks, tensors]
    differing = (table != table[0]).any(dim=0).nonzero().flatten().tolist()
    if differing:
        found = [_odd(table[:, column].tolist()) for column in differing]
        odd = sorted({rank for ranks_, _ in found for rank in ranks_})
        raise RanksDiffer([names[column] for column in differing], odd, images_seen, all(known for _, known in found))


def fingerprint(gan: Gan, phase: Phase, images_seen: int) -> dict[str, int]:
    """A number for each tensor, and for what is none, by name; another for other bits, or for bits in another order."""
    tensors = dict(sorted((gan.weights() | gan.moments()).items()))
    on_device = torch.stack([_digest(tensor) for tensor in tensors.values()])
    scalers = {f"scale/{side.name}": json.dumps(side.scaler.state_dict(), sort_keys=True) for side in gan.sides}
    texts = {"schedule": repr((images_seen, astuple(phase)))} | scalers
    return {
        **{name: zlib.crc32(text.encode()) for name, text in texts.items()},
        **dict(zip(tensors, on_device.tolist(), strict=True)),
    }


def _digest(tensor: Tensor) -> Tensor:
    """int64 scalar: sums of the elements' bits, each times an odd number of its place, modulo 2^64."""
    bits = _bits(tensor)
    chunk = CHUNK[tensor.device.type]
    places = (2 * torch.arange(min(chunk, len(bits)), device=bits.device) + 1) * ODD
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for part in bits.split(chunk):
        total = total * ODD + (part * places[: len(part)]).sum()
    return total


def _bits(tensor: Tensor) -> Tensor:
    """The elements as integers in one row, in the order of memory where there is one: no copy."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.detach().reshape(-1).view(INTEGERS[tensor.element_size()])


def _odd(values: list[int]) -> tuple[list[int], bool]:
    """The ranks whose value is not that of most, and whether there is such a majority; else all ranks."""
    value, count = Counter(values).most_common(1)[0]
    if 2 * count > len(values):
        return [rank for rank, other in enumerate(values) if other != value], True
    return list(range(len(values))), False
