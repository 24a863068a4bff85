"""Images that stand elsewhere, asked for before they are needed: a store takes longer to answer than to send."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from t2f_dist.shard.corpus import Entry

AHEAD = 8  # images, so that no more are held in memory


@dataclass(frozen=True)
class Asked:
    """The bytes of an image that are on their way. `read` raises as that of the image does."""

    content: Future[bytes]
    is_remote: bool = False  # no longer

    def read(self) -> bytes:
        return self.content.result()


def ahead(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same entries; the images of the next AHEAD are on their way, unless they are files of this machine."""
    waiting: deque[Entry] = deque()
    pool = ThreadPoolExecutor(AHEAD)  # whose threads are started when they are needed
    try:
        for entry in entries:
            image = entry.image
            if image.is_remote:
                entry = replace(entry, image=Asked(pool.submit(image.read)))
            waiting.append(entry)
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)
