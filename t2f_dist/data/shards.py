"""The shards of one split, open for random access: shard and row -> a picture, captions, and members of the tar.

Their place is a local folder or a URL. What is remote is read through a cache of the node; of a shard only the files
that are asked for are fetched: small pictures and captions stand in a file of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from t2f_dist.config.recipe import ImageRecipe
from t2f_dist.data.image import decode, decode_foreign
from t2f_dist.data.order import Place
from t2f_dist.shard import format as shard_format
from t2f_dist.shard import levels
from t2f_dist.shard.format import DamagedSample
from t2f_dist.shard.manifest import SPLITS, Manifest, Shard, locate
from t2f_dist.storage import url
from t2f_dist.storage.cache import Cache, Held

MAX_OPEN = 64  # shards, of local files
CACHE_BYTES = 50_000_000_000  # of a cache that no configuration bounds


def default_cache() -> Path:
    """Where remote shards are kept, unless a configuration says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2f-dist" / "shards"


class OpenShard:
    """One shard: its index in memory, its files opened when they are asked for.

    Attributes:
        identities: [samples] as in the index, but fast to look up one by one.
        voiced: [samples] whether it has a voice.
    """

    def __init__(self, shard: Shard, index: np.ndarray):
        self.shard = shard
        self.index = index
        self.identities: list[int] = index["identity"].tolist()
        self.voiced: list[bool] = (index["speech_length"] > 0).tolist()
        self.lods: list[tuple[int, int]] = list(
            zip(index["lod_offset"].tolist(), index["lod_length"].tolist(), strict=True)
        )
        self.tar: int | None = None  # descriptors
        self.small: int | None = None
        self.held: list[Held] = []

    def close(self) -> None:
        cached = {held.descriptor for held in self.held}
        for held in self.held:
            held.release()
        for descriptor in (self.tar, self.small):
            if descriptor is not None and descriptor not in cached:
                os.close(descriptor)


class _Forks:
    """Counted, since to ask for the process at each sample takes longer than to find its shard."""

    number = object()

    @classmethod
    def another(cls) -> None:
        cls.number = object()


os.register_at_fork(after_in_child=_Forks.another)


class Shards:
    """Opened as they are asked for.

    Args:
        place: folder or URL, with manifest.json.
        split: train, validation or test.
        cache: for what is remote; None: one in the home folder.
        max_open: shards at a time.

    Raises FileNotFoundError, ValueError: the shards are missing, damaged, or hold nothing in `split`.
    """

    def __init__(self, place: str | Path, split: str, cache: Cache | None = None, max_open: int = MAX_OPEN):
        self.place = place
        self.manifest = Manifest.load(place)
        self.listed = self.manifest.shards(split)
        if not self.listed:
            filled = [name for name in SPLITS if self.manifest.num_samples(name)]
            raise ValueError(f"{place} has no sample in the split {split!r}; there are some in {filled}")
        self.recipe = None if self.manifest.squared else ImageRecipe.model_validate(self.manifest.recipe["image"])
        self.max_open = max_open
        self._cache = cache
        self._open: dict[int, OpenShard] = {}
        self._forks = _Forks.number
        self._looked_at: set[int] = set()  # shards with damage

    def __getitem__(self, number: int) -> OpenShard:
        opened = self._open.get(number) if self._forks is _Forks.number else None
        if opened is None:
            if self._forks is not _Forks.number:  # a forked loader process must not share what holds cached files
                self._open, self._forks = {}, _Forks.number
            while len(self._open) >= self.max_open:
                self._open.pop(next(iter(self._open))).close()
            shard = self.listed[number]
            opened = self._open[number] = OpenShard(shard, self._index(shard))
        return opened

    def _index(self, shard: Shard) -> np.ndarray:
        """In memory: [samples] records."""
        held = self._fetched(shard.index, shard.index_bytes, shard.index_sha256)
        if held is None:
            return np.array(shard_format.open_index(locate(self.place, shard.index), shard))
        with held:
            try:
                return np.array(shard_format.open_index(held.path, shard))
            except ValueError:
                where = locate(self.place, shard.index)
                if not self.cache.drop_damaged(where, shard.index_bytes, shard.index_sha256):
                    raise
        return self._index(shard)

    def _renewed(self, number: int) -> bool:
        """Whether a shard was damaged in the cache; then it is fetched anew when it is read. Looks once a shard."""
        files = [] if number in self._looked_at else self.files(number, small_only=False)
        self._looked_at.add(number)
        renewed = [file for file in files if self.cache.drop_damaged(*file)]
        if renewed:
            self._open.pop(number).close()
        return bool(renewed)

    @property
    def cache(self) -> Cache:
        """The cache of what is remote."""
        if self._cache is None:
            self._cache = Cache(default_cache(), CACHE_BYTES)
        return self._cache

    @property
    def remote(self) -> bool:
        """Whether any file of the split has to be fetched."""
        return url.local(self.place) is None or any(
            url.is_url(s.name) and url.local(s.name) is None for s in self.listed
        )

    def files(self, number: int, small_only: bool) -> list[tuple[str, int, str]]:
        """The remote files of a shard that its reading takes: URL, bytes, sha256; of `small_only` without the tar."""
        shard = self.listed[number]
        found = [
            (shard.index, shard.index_bytes, shard.index_sha256),
            (shard.small, shard.small_bytes, shard.small_sha256),
        ]
        found += [] if small_only else [(shard.name, shard.bytes, shard.sha256)]
        located = [(locate(self.place, name), size, sha256) for name, size, sha256 in found]
        return [each for each in located if url.local(each[0]) is None]

    def _fetched(self, name: str, size: int, sha256: str) -> Held | None:
        where = locate(self.place, name)
        return self.cache.get(where, size, sha256) if url.local(where) is None else None

    def _tar(self, opened: OpenShard) -> int:
        if opened.tar is None:
            shard = opened.shard
            opened.tar = self._descriptor(opened, shard.name, shard.bytes, shard.sha256, shard_format.open_shard)
        return opened.tar

    def _small(self, opened: OpenShard) -> int:
        if opened.small is None:
            shard = opened.shard
            opened.small = self._descriptor(
                opened, shard.small, shard.small_bytes, shard.small_sha256, shard_format.open_small
            )
        return opened.small

    def _descriptor(self, opened: OpenShard, name: str, size: int, sha256: str, open_local) -> int:
        held = self._fetched(name, size, sha256)
        if held is None:
            return open_local(locate(self.place, name), opened.shard)
        opened.held.append(held)
        return held.descriptor

    def keep(self, numbers: Collection[int]) -> None:
        """Close all shards but these: from a cache, what is open cannot be evicted."""
        if self._forks is _Forks.number:
            for number in [number for number in self._open if number not in numbers]:
                self._open.pop(number).close()

    def identity(self, place: Place) -> int:
        return self[place.shard].identities[place.row]

    def has_voice(self, place: Place) -> bool:
        return self[place.shard].voiced[place.row]

    def level(self, place: Place, resolution: int) -> np.ndarray | None:
        """A picture of the small file, uint8 [3, R, R]; None where it has none. Raises DamagedSample."""
        end = levels.ENDS.get(resolution)
        if end is None:
            return None
        opened = self[place.shard]
        offset, length = opened.lods[place.row]
        if end > length:
            return None
        try:
            return levels.parse(os.pread(opened.small or self._small(opened), end, offset), resolution)
        except ValueError as error:
            if self._renewed(place.shard):
                return self.level(place, resolution)
            raise DamagedSample(f"lod: {error}") from None

    def picture(self, content: bytes, resolution: int) -> np.ndarray:
        """The `image` member of a sample at a resolution: uint8 [3, R, R]. Raises DamagedSample."""
        if self.recipe is None:
            return decode(content, resolution, self.manifest.image_resolution)
        return decode_foreign(content, resolution, self.recipe)

    def captions(self, place: Place) -> bytes:
        """The captions of a sample, from the small file. Raises DamagedSample."""
        opened = self[place.shard]
        try:
            return shard_format.captions_copy(self._small(opened), opened.index[place.row])
        except DamagedSample:
            if not self._renewed(place.shard):
                raise
            return self.captions(place)

    def members(self, place: Place, names: Sequence[str]) -> dict[str, bytes]:
        """Members of a sample from the tar by one read, empty where it has none. Raises DamagedSample."""
        opened = self[place.shard]
        record = opened.index[place.row]
        try:
            if len(names) == 1:
                return {names[0]: shard_format.member(self._tar(opened), record, names[0])}
            return shard_format.read_sample(self._tar(opened), record, names)
        except DamagedSample:
            if not self._renewed(place.shard):
                raise
            return self.members(place, names)

    def key(self, place: Place) -> str:
        """The sample's name, for people."""
        opened = self[place.shard]
        return shard_format.sample_key(self._tar(opened), opened.index[place.row])

    def identity_name(self, place: Place, meta: bytes) -> str:
        """Whose sample it is, as the corpus writes it, from its `meta` member; of a foreign tar the sample's key."""
        if self.recipe is None:
            try:
                return str(json.loads(meta)["identity"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise DamagedSample("meta: no object with an identity") from None
        return self.key(place)

    def identities(self) -> np.ndarray:
        """Those of the split, sorted: uint64 [K]. Reads every index."""
        found = np.zeros(0, dtype=np.uint64)
        for start in range(0, len(self.listed), self.max_open):
            numbers = range(start, min(start + self.max_open, len(self.listed)))
            found = np.unique(np.concatenate([found, *(self[number].index["identity"] for number in numbers)]))
        return found

    def names(self, identities: Sequence[int]) -> list[str]:
        """Identities as the corpus writes them, from the first sample of each."""
        found: dict[int, str] = {}
        for number in range(len(self.listed)):
            for row, identity in enumerate(self[number].identities):
                if identity not in found:
                    place = Place(number, row)
                    found[identity] = self.identity_name(place, self.members(place, ["meta"])["meta"])
        return [found[identity] for identity in identities]

    def close(self) -> None:
        """Close the files that this process has open."""
        if self._forks is _Forks.number:
            for opened in self._open.values():
                opened.close()
        self._open = {}
