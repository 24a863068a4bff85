"""What samples are read from: shards with an index, or what streams in; and what stands at each turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from t2f_dist.data.order import Place
from t2f_dist.shard.manifest import Manifest


class Ahead(Protocol):
    """Samples of which one is the next, and from which substitutes and mismatched ones are drawn."""

    def __len__(self) -> int: ...
    def place(self, index: int) -> Place: ...


class Lane(Protocol):
    """What stands at a turn: an order of shards, or a queue of what streams in."""

    def window(self, position: int) -> tuple[Ahead, int]:
        """The samples among which it is, and its index there."""
        ...


class Facts(Protocol):
    """Of the samples of a shard, by row."""

    @property
    def identities(self) -> Sequence[int] | Mapping[int, int]: ...
    @property
    def voiced(self) -> Sequence[int] | Mapping[int, bool]: ...


class Source(Protocol):
    """Where samples are read from, by place: `t2f_dist.data.shards.Shards`, or what streams in."""

    @property
    def manifest(self) -> Manifest: ...
    @property
    def listed(self) -> Sequence[Any]: ...  # each with its name
    def __getitem__(self, number: int) -> Facts: ...
    def identity(self, place: Place) -> int: ...
    def level(self, place: Place, resolution: int) -> np.ndarray | None: ...
    def members(self, place: Place, names: Sequence[str]) -> dict[str, bytes]: ...
    def picture(self, content: bytes, resolution: int) -> np.ndarray: ...
    def captions(self, place: Place) -> bytes: ...
    def key(self, place: Place) -> str: ...
