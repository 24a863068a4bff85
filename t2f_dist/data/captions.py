"""The captions of samples as word numbers, kept at hand, and how near two are in words."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from t2f_dist.data.order import Place
from t2f_dist.shard import format as shard_format
from t2f_dist.text.vocabulary import UNKNOWN, Vocabulary

MAX_CACHED = 16384  # samples: about as many as a window of shards holds


class Caption(NamedTuple):
    tokens: np.ndarray  # int64 [T], word numbers in order
    words: int  # which words they are, a bit each: union, intersection and size are single operations


def similarity(one: Caption, other: Caption) -> float:
    """The share of words that two captions have in common (Jaccard), 0 to 1."""
    return (one.words & other.words).bit_count() / (one.words | other.words).bit_count()


class Captions:
    """By place; a caption without any known word is one unknown word."""

    def __init__(self, vocabulary: Vocabulary, max_words: int):
        self.vocabulary = vocabulary
        self.max_words = max_words
        self._kept: dict[Place, list[Caption]] = {}

    def get(self, place: Place) -> list[Caption] | None:
        return self._kept.get(place)

    def read(self, place: Place, content: bytes) -> list[Caption]:
        """From a sample's `captions` member; none for a sample without captions."""
        if len(self._kept) >= MAX_CACHED:
            self._kept.clear()
        self._kept[place] = [self.encode(text) for text in shard_format.captions(content)]
        return self._kept[place]

    def encode(self, text: str) -> Caption:
        tokens = self.vocabulary.encode(text, self.max_words) or [UNKNOWN]
        words = 0
        for token in tokens:
            words |= 1 << token
        return Caption(np.array(tokens, dtype=np.int64), words)
