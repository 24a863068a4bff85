"""The captions of samples as word numbers, kept at hand, and how near two are in words."""

from __future__ import annotations

import numpy as np

from t2f_dist.data.order import Place
from t2f_dist.shard import format as shard_format
from t2f_dist.text.vocabulary import UNKNOWN, Vocabulary

MAX_CACHED = 16384  # samples: about as many as a window of shards holds


class Caption:
    """A caption, of which only what is asked for is worked out.

    Attributes:
        tokens: int64 [T], word numbers in order.
        words: which words they are, a bit each: union, intersection and size are single operations.
    """

    __slots__ = ("_max_words", "_text", "_tokens", "_vocabulary", "_words")

    def __init__(self, text: str, vocabulary: Vocabulary, max_words: int):
        self._text = text
        self._vocabulary = vocabulary
        self._max_words = max_words
        self._tokens: np.ndarray | None = None
        self._words = 0

    @property
    def tokens(self) -> np.ndarray:
        if self._tokens is None:
            numbers = self._vocabulary.encode(self._text, self._max_words) or [UNKNOWN]
            self._tokens = np.array(numbers, dtype=np.int64)
        return self._tokens

    @property
    def words(self) -> int:
        if not self._words:
            for token in self.tokens.tolist():
                self._words |= 1 << token
        return self._words


def similarity(one: Caption, other: Caption) -> float:
    """The share of words that two captions have in common (Jaccard), 0 to 1."""
    return (one.words & other.words).bit_count() / (one.words | other.words).bit_count()


class Captions:
    """By place; a caption without any known word is one unknown word.

    Args:
        keep: those that were read, for samples that are looked at many times an epoch.
    """

    def __init__(self, vocabulary: Vocabulary, max_words: int, keep: bool = True):
        self.vocabulary = vocabulary
        self.max_words = max_words
        self.keep = keep
        self._kept: dict[Place, list[Caption]] = {}

    def get(self, place: Place) -> list[Caption] | None:
        return self._kept.get(place)

    def read(self, place: Place, content: bytes) -> list[Caption]:
        """From a sample's `captions` member; none for a sample without captions."""
        found = [self.encode(text) for text in shard_format.captions(content)]
        if self.keep:
            if len(self._kept) >= MAX_CACHED:
                self._kept.clear()
            self._kept[place] = found
        return found

    def encode(self, text: str) -> Caption:
        return Caption(text, self.vocabulary, self.max_words)
