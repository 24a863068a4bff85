"""Items of the mixed shards: whose they are, what they hold and what they could hold."""

from pathlib import Path

import numpy as np

from t2f_dist.config.condition import LogMel, Lstm, OneHot
from t2f_dist.data.batch import Item
from t2f_dist.data.dataset import Wanted
from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.text.vocabulary import Vocabulary
from tests.data import mixed
from tests.data.mixed import Face

BOTH = frozenset({"condition", "image"})
ALL = {"caption": Lstm(), "speech": LogMel(seconds=0.4), "identity": OneHot()}
NUM = mixed.SHARD * mixed.NUM_SHARDS


def samples_of(shards: Path, split: str = "train", seed: int = 5, **wanted) -> IndexedSamples:
    options = {"modalities": ALL, "mismatched": BOTH, "mismatch_candidates": 3}
    return IndexedSamples(shards, split, seed, 2, Wanted(**options | wanted), train_split="train")


def face_of(item: Item) -> Face:
    return Face(int(item.image[0, 0, 0]) // 3)


def other_of(item: Item) -> Face:
    return Face(int(item.mismatched_image[0, 0, 0]) // 3)


def held(condition) -> set[str]:
    return {name for name, values in condition.items() if len(values)}


def has(face: Face) -> set[str]:
    given = {"caption": face.captions, "speech": face.voice, "identity": (1,)}
    return {name for name, values in given.items() if len(values)}


def texts(face: Face) -> list[list[int]]:
    return [Vocabulary(mixed.WORDS).encode(text, 100) for text in face.captions]


def same(one: Item, other: Item) -> bool:
    def equal(a, b) -> bool:
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
        return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b

    return all(equal(a, b) for a, b in zip(one, other, strict=True))
