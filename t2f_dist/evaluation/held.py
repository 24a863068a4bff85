"""Samples as the shards hold them, one by one: what a face can be drawn for again, and be compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2f_dist.data.order import Place
from t2f_dist.data.shards import CACHE_BYTES, Cache, Shards, default_cache
from t2f_dist.shard import format as shard_format


def cache_of(folder: Path | None = None, max_bytes: int | None = None) -> Callable[[], Cache]:
    """Makes the cache of remote shards: where a person says, else in the home folder.

    Never where a snapshot says: a stranger's would choose in which folder files are written, and old ones deleted.
    """

    def open_cache() -> Cache:
        try:
            return Cache(folder or default_cache(), max_bytes or CACHE_BYTES)
        except ValueError as error:
            raise ValueError(f"{error}; here by --cache-dir") from None

    return open_cache


class Held(NamedTuple):
    """A sample; what it lacks is empty."""

    key: str  # its name, for people
    image: bytes
    caption: str  # one of its captions
    embedding: np.ndarray  # of that caption, float32 [1, D]; else [0, D]
    voice: bytes  # FLAC
    identity: int  # as in the index
    identity_name: str  # as the corpus writes it


def read(shards: Shards, place: Place, choice: int) -> Held:
    """The sample at a place, with the caption that a number of 0 or more chooses. Raises DamagedSample."""
    members = shards.members(place, ["image", "meta", "speech", "embeddings"])
    captions = shard_format.captions(shards.captions(place))
    which = choice % max(1, len(captions))
    stored = members["embeddings"]
    embeddings = shard_format.embeddings(stored) if stored else np.zeros((0, 0), np.float32)
    return Held(
        key=shards.key(place),
        image=members["image"],
        caption=captions[which] if captions else "",
        embedding=embeddings[which : which + 1],
        voice=members["speech"],
        identity=shards.identity(place),
        identity_name=shards.identity_name(place, members["meta"]),
    )
