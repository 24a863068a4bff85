"""The shards of one split, open for random access: shard and row -> the bytes of a sample's members."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2f_dist.data.order import Place
from t2f_dist.shard import format as shard_format

MAX_OPEN = 64


class OpenShard(NamedTuple):
    descriptor: int  # of the tar
    index: np.ndarray  # [samples] records
    identities: list[int]  # [samples]; the same as in the index, but fast to look up one by one
    voiced: list[bool]  # [samples]: whether it has a voice


class Shards:
    """Raises FileNotFoundError, ValueError: the shards are missing, damaged, or hold nothing in `split`."""

    def __init__(self, folder: Path, split: str):
        self.folder = folder
        self.manifest = shard_format.Manifest.load(folder)
        self.listed = self.manifest.shards(split)
        if not self.listed:
            filled = [name for name in shard_format.SPLITS if self.manifest.num_samples(name)]
            raise ValueError(f"{folder} has no sample in the split {split!r}; there are some in {filled}")
        self._open: dict[int, OpenShard] = {}
        self._process = os.getpid()

    def __getitem__(self, number: int) -> OpenShard:
        if self._process != os.getpid():  # a forked loader process must not share file descriptors
            self._open, self._process = {}, os.getpid()
        if number not in self._open:
            while len(self._open) >= MAX_OPEN:
                oldest = next(iter(self._open))
                os.close(self._open.pop(oldest).descriptor)
            shard = self.listed[number]
            index = np.asarray(shard_format.open_index(self.folder, shard))
            descriptor = shard_format.open_shard(self.folder, shard)
            identities, voiced = index["identity"].tolist(), (index["speech_length"] > 0).tolist()
            self._open[number] = OpenShard(descriptor, index, identities, voiced)
        return self._open[number]

    def identity(self, place: Place) -> int:
        return self[place.shard].identities[place.row]

    def has_voice(self, place: Place) -> bool:
        return self[place.shard].voiced[place.row]

    def members(self, place: Place, names: Sequence[str]) -> dict[str, bytes]:
        """Members of a sample by one read, empty where it has none. Raises DamagedSample."""
        shard = self[place.shard]
        record = shard.index[place.row]
        if len(names) == 1:
            return {names[0]: shard_format.member(shard.descriptor, record, names[0])}
        return shard_format.read_sample(shard.descriptor, record, names)

    def key(self, place: Place) -> str:
        """The sample's name, for people."""
        shard = self[place.shard]
        return shard_format.sample_key(shard.descriptor, shard.index[place.row])

    def identities(self) -> np.ndarray:
        """Those of the split, sorted: uint64 [K]. Reads every index."""
        return np.unique(
            np.concatenate([shard_format.open_index(self.folder, shard)["identity"] for shard in self.listed])
        )

    def names(self, identities: Sequence[int]) -> list[str]:
        """Identities as the corpus writes them, from the first sample of each."""
        found: dict[int, str] = {}
        for number in range(len(self.listed)):
            for row, identity in enumerate(self[number].identities):
                if identity not in found:
                    meta = json.loads(self.members(Place(number, row), ["meta"])["meta"])
                    found[identity] = str(meta["identity"])
        return [found[identity] for identity in identities]

    def close(self) -> None:
        """Close the tars that this process has open."""
        if self._process == os.getpid():
            for shard in self._open.values():
                os.close(shard.descriptor)
        self._open = {}
