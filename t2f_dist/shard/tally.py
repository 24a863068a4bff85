"""The words of many tars, counted in memory that does not grow with them."""

from __future__ import annotations

import tempfile
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

HELD_MAX = 2_000_000  # words in memory, before what is counted goes to the disk
PARTS = 64  # files there, each with the words of some hashes, so that each can be counted by itself


class Tally:
    """Counts of words, exact, in whatever order they are added. A context; its files are gone after it.

    Args:
        folder: for its files.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._held: Counter[str] = Counter()
        self._files = ExitStack()
        self._parts: list[BinaryIO] = []

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._files.close()

    def add(self, counts: Mapping[str, int]) -> None:
        """Raises OSError where the disk is full."""
        self._held.update(counts)
        if len(self._held) > HELD_MAX:
            self._spill()

    def most_common(self, num: int, num_bytes: int, min_count: int = 1) -> dict[str, int]:
        """Those words, most frequent first (ties by spelling), that are seen at least `min_count` times.

        Args:
            num: at most so many.
            num_bytes: and no more of them than have so many bytes together, as the lines of a vocabulary.
        """
        if self._parts:
            self._spill()
        kept: list[tuple[int, str]] = []  # negative counts, so that the order is that of the tuples
        for part in self._parts or [None]:
            counts = self._held if part is None else _read(part)
            least = max(min_count, -kept[-1][0] if len(kept) == num else 0)
            kept += [(-count, word) for word, count in counts.items() if count >= least]
            kept = sorted(kept)[:num]
        ends = accumulate(len(word.encode()) + len('"",\n') for _, word in kept)
        return {word: -count for (count, word), end in zip(kept, ends, strict=True) if end <= num_bytes}

    def _spill(self) -> None:
        if not self._parts:
            for _ in range(PARTS):
                self._parts.append(self._files.enter_context(tempfile.TemporaryFile(dir=self._folder)))  # noqa: SIM115
        for word, count in self._held.items():
            content = word.encode()
            self._parts[zlib.crc32(content) % PARTS].write(b"%d %b\n" % (count, content))
        self._held = Counter()


def _read(part: BinaryIO) -> Counter[str]:
    counts: Counter[str] = Counter()
    part.seek(0)
    for line in part:
        count, _, word = line[:-1].partition(b" ")
        counts[word.decode()] += int(count)
    return counts
