"""Words as numbers."""

import json
from collections.abc import Mapping, Sequence

from t2f_dist.text.words import words

PADDING = 0
UNKNOWN = 1
FORMAT = "t2f-dist-vocabulary"
VERSION = 1


class Vocabulary:
    """An ordered list of words; index 0 is padding, 1 any other word, 2 the first of `words`.

    Raises:
        ValueError: a word given twice.
    """

    def __init__(self, words: Sequence[str]):
        self.words = tuple(words)
        self._index = {word: index for index, word in enumerate(self.words, start=2)}
        if len(self._index) != len(self.words):
            twice = next(word for index, word in enumerate(self.words, start=2) if self._index[word] != index)
            raise ValueError(f"the vocabulary holds the word {twice!r} twice")

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], min_count: int = 1, max_size: int | None = None) -> "Vocabulary":
        """The words seen at least `min_count` times, most frequent first (ties by spelling), `max_size` at most."""
        kept = [word for word, count in counts.items() if count >= min_count]
        return cls(sorted(kept, key=lambda word: (-counts[word], word))[:max_size])

    def extended(self, counts: Mapping[str, int], min_count: int = 1, max_size: int | None = None) -> "Vocabulary":
        """These words with their indices, and after them those of `counts` that are not among them, as `from_counts`.

        Args:
            max_size: of all words together; what there is stays, whatever it says.
        """
        added = {word: count for word, count in counts.items() if word not in self._index}
        room = None if max_size is None else max(0, max_size - len(self.words))
        return Vocabulary([*self.words, *Vocabulary.from_counts(added, min_count, room).words])

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """
        Raises:
            ValueError: not what `to_json` writes.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a vocabulary: {error}") from None
        if not isinstance(content, dict) or (content.get("format"), content.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"not a vocabulary of format {FORMAT} {VERSION}")
        entries = content.get("words")
        if not isinstance(entries, list) or not all(isinstance(word, str) for word in entries):
            raise ValueError("a vocabulary without a list of words")
        return cls(entries)

    def to_json(self) -> str:
        content = {"format": FORMAT, "version": VERSION, "words": list(self.words)}
        return json.dumps(content, ensure_ascii=False, indent=0) + "\n"

    def __len__(self) -> int:
        """The number of indices, padding and unknown among them: the rows of an embedding."""
        return len(self.words) + 2

    def __contains__(self, word: str) -> bool:
        return word in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def encode(self, caption: str, max_words: int) -> list[int]:
        """The indices of the first `max_words` words, in order; not padded."""
        return [self._index.get(word, UNKNOWN) for word in words(caption)[:max_words]]

    def unknown(self, caption: str) -> list[str]:
        """The words of a caption that the vocabulary lacks, each once, in order."""
        return list(dict.fromkeys(word for word in words(caption) if word not in self._index))
