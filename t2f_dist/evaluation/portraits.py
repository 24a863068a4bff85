"""How well a snapshot's faces match captions and voices that it never saw: agreement on drawn portraits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from t2f_dist.data.order import Order
from t2f_dist.data.shards import Cache, Shards
from t2f_dist.evaluation.agreement import Agreement, agreement, compare, labels, mean
from t2f_dist.evaluation.conditions import NOUNS, Condition, Conditions
from t2f_dist.evaluation.held import Held, read
from t2f_dist.evaluation.pitch import pitch_hz
from t2f_dist.models.snapshot import Snapshot
from t2f_dist.portraits.attributes import ATTRIBUTES
from t2f_dist.portraits.naming import named
from t2f_dist.portraits.reader import Reader
from t2f_dist.shard.format import DamagedSample
from t2f_dist.shard.manifest import SPLITS, Manifest

WAYS = {"caption": ("caption",), "speech": ("speech",), "both": ("caption", "speech")}
"""A way of asking -> the modalities that are given; those of the snapshot that are not among them are missing."""

ONLY = "agreement can be read from drawn portraits alone, such as `t2f-dist demo` draws"
MIN_RESOLUTION = 16  # of the reader
MIN_REAL = 0.8  # agreement of real portraits; drawn ones are above .97
HIGH_PITCH_HZ = 158.0  # women of the drawn corpus speak higher, men lower


def evaluate(
    snapshot: Snapshot,
    shards: str | Path,
    split: str,
    num: int,
    seed: int,
    by: str = "all",
    cache: Callable[[], Cache] | None = None,
) -> dict[str, Agreement]:
    """Draw a face for each of `num` samples of a split (fewer where it holds fewer), in each way of asking; read them.

    All ways are asked about the same samples, those that have what any of the ways gives, with the same noise.

    by: one of WAYS, or "all": each in which the snapshot can be asked.
    cache: as for `Conditions`.
    Raises ValueError where the split's identities also stand in the training split, or its samples are no drawn
    portraits, or of another kind than the snapshot was trained with; where the snapshot cannot be asked so; and where
    its faces are too small to be read.
    """
    if snapshot.resolution < MIN_RESOLUTION:
        raise ValueError(
            f"the snapshot draws faces of {snapshot.resolution} pixels, and attributes can be read from"
            f" {MIN_RESOLUTION} on: train further"
        )
    conditions = Conditions(snapshot, cache=cache)
    ways = _ways(conditions, by)
    needed = list(dict.fromkeys(name for way in ways for name in WAYS[way]))
    _assert_filled(shards, split)
    source = conditions.open(shards, split, needed)
    try:
        if split != "train":
            _assert_unseen(source, conditions.cache)
        samples, given, reals = _samples(source, conditions, needed, num, seed)
    finally:
        source.close()
    if not samples:
        nouns = " and ".join(NOUNS[name] for name in needed)
        raise ValueError(f"{ONLY}; no sample of the split {split} in {shards} has {nouns}: name another, or --by")
    names = [named(sample.caption) for sample in samples]
    reader = Reader.load()
    real = reader.read(torch.stack(reals))
    _assert_portraits(shards, samples, given, real, snapshot.facts.sample_rate_hz)
    tables = {}
    for way in ways:
        inputs = conditions.inputs([{name: each[name] for name in WAYS[way]} for each in given])
        images = snapshot.draw(inputs, range(len(samples)), seed)
        tables[way] = compare(reader.read(images), real, names, seed=seed)
    return tables


def _ways(conditions: Conditions, by: str) -> list[str]:
    """Those to be asked in. Raises ValueError where there is none."""
    if by != "all":
        for name in WAYS[by]:
            if name not in conditions.sections:
                raise ValueError(f"--by {by}: this snapshot was not trained with {NOUNS[name]}")
        for name in conditions.needed(WAYS[by]):
            raise ValueError(
                f"--by {by}: this snapshot was trained with {NOUNS[name]} for every face (condition.{name}.dropout is"
                " 0), so it cannot be asked without"
            )
        return [by]
    if not conditions.sections:
        raise ValueError("this snapshot draws without any condition: there is nothing that its faces could agree with")
    ways = [
        way
        for way, names in WAYS.items()
        if all(name in conditions.sections for name in names) and not conditions.needed(names)
    ]
    if not ways:
        raise ValueError(
            "this snapshot was trained with an identity for every face, and those of other people are none that it"
            " knows: only captions and voices can be evaluated"
        )
    return ways


def _samples(
    source: Shards, conditions: Conditions, needed: Collection[str], num: int, seed: int
) -> tuple[list[Held], list[Condition], list[Tensor]]:
    """The first `num` samples, in an order of `seed`, that have what is needed; their conditions; their own pictures,
    uint8 [3, R, R] each."""
    order = Order([shard.num_samples for shard in source.listed], seed, window_shards=1)
    resolution = source.manifest.image_resolution
    samples, given, reals = [], [], []
    for position in range(order.num_samples):
        place = order.locate(position)
        source.reads([place.shard])  # one after the other; what is open cannot be evicted from the cache
        try:
            sample = read(source, place, choice=position)
            condition = conditions.held(sample)
            if all(name in condition for name in needed):
                reals.append(torch.from_numpy(source.picture(sample.image, resolution).copy()))
                samples.append(sample)
                given.append(condition)
        except DamagedSample as error:
            name = source.listed[place.shard].name
            raise ValueError(f"{name} in {source.place}: {error}; run `t2f-dist verify {source.place}`") from None
        if len(samples) == num:
            break
    return samples, given, reals


def _assert_portraits(
    shards: str | Path,
    samples: Sequence[Held],
    given: Sequence[Condition],
    real: dict[str, Tensor],
    sample_rate_hz: int,
) -> None:
    """By their captions; without any, by their voices: men and women among drawn portraits speak apart."""
    if any(sample.caption for sample in samples):
        own = mean(agreement(real, labels([named(sample.caption) for sample in samples])))
        said = "captions"
    else:
        high = np.array([pitch_hz(condition["speech"], sample_rate_hz) for condition in given]) > HIGH_PITCH_HZ
        women = real["sex"].numpy() == ATTRIBUTES["sex"].index("woman")
        own, said = float((high == women).mean()), "voices"
    if not own > MIN_REAL:  # photographs; their captions may name hair and glasses too
        raise ValueError(
            f"{ONLY}, and {shards} holds no drawn portraits (of its own pictures {own:.2f} agree with their {said}):"
            " name a corpus of those with --shards"
        )


def _assert_filled(shards: str | Path, split: str) -> None:
    manifest = Manifest.load(shards)
    if not manifest.num_samples(split):
        filled = " or ".join(f"--split {name}" for name in SPLITS if manifest.num_samples(name))
        raise ValueError(f"{ONLY}; the split {split} of {shards} is empty: name one that has samples, {filled}")


def _assert_unseen(source: Shards, cache: Callable[[], Cache]) -> None:
    if not source.manifest.shards("train"):
        return
    shared = np.intersect1d(source.identities(), Shards(source.place, "train", cache).identities())
    if len(shared):
        raise ValueError(
            f"{ONLY}; in {source.place}, {len(shared)} identities of the split are in the training split too"
        )
