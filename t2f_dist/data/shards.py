"""The shards of one split, open for random access: shard and row -> a picture, captions, and members of the tar.

Their place is a local folder or a URL. What is remote is read through a cache of the node; of a shard only the files
that are asked for are fetched: small pictures and captions stand in a file of their own.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
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

MAX_OPEN = 64  # shards, unless more are read at a time
MAX_SAMPLES = 200_000  # of them: an open one costs about 130 bytes a sample
MAX_FILES = 256  # open at a time: many systems allow a process a thousand
MAX_RENEWALS = 3  # of a shard: where the disk is broken, what is fetched anew is damaged again
CACHE_BYTES = 50_000_000_000  # of a cache that no configuration bounds


def default_cache() -> Path:
    """Where remote shards are kept, unless a configuration says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2f-dist" / "shards"


def open_default() -> Cache:
    """The cache where no configuration names one."""
    return Cache(default_cache(), CACHE_BYTES)


class OpenShard:
    """One shard: its index in memory, its files opened when they are asked for.

    What is looked up sample by sample stands beside the index: a field of a record takes ten times as long, and lists
    of Python's numbers ten times the memory.

    Attributes:
        identities: [samples] as in the index.
        voiced: [samples] 1 where it has a voice.
    """

    def __init__(self, shard: Shard, index: np.ndarray):
        self.shard = shard
        self.index = index
        self.identities: Sequence[int] = array("Q", index["identity"].astype(np.uint64).tobytes())
        self.voiced = (index["speech_length"] > 0).tobytes()
        self.lod_offsets = array("Q", index["lod_offset"].astype(np.uint64).tobytes())
        self.lod_lengths = array("I", index["lod_length"].astype(np.uint32).tobytes())
        self.tar: int | None = None  # descriptors
        self.small: int | None = None
        self.held: dict[str, Held] = {}  # by the name of the file
        self.looked_at: set[str] = set()  # of those, in search of damage

    def close(self) -> None:
        self.close_file(self.shard.name)
        self.close_file(self.shard.small)

    def close_file(self, name: str) -> None:
        """The tar or the small file; it is opened again when it is asked for."""
        if name == self.shard.name:
            descriptor, self.tar = self.tar, None
        else:
            descriptor, self.small = self.small, None
        self.looked_at.discard(name)
        held = self.held.pop(name, None)
        if held is not None:
            held.release()
        elif descriptor is not None:
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
        cache: makes the cache, where something is remote.
        max_open: shards at a time, and fewer where they are large; see `reads`.

    Raises FileNotFoundError, ValueError: the shards are missing, damaged, or hold nothing in `split`.
    """

    def __init__(
        self, place: str | Path, split: str, cache: Callable[[], Cache] = open_default, max_open: int = MAX_OPEN
    ):
        self.place = place
        self.manifest = Manifest.load(place)
        self.listed = self.manifest.shards(split)
        if not self.listed:
            filled = [name for name in SPLITS if self.manifest.num_samples(name)]
            raise ValueError(f"{url.shown(place)} has no sample in the split {split!r}; there are some in {filled}")
        self.recipe = None if self.manifest.squared else ImageRecipe.model_validate(self.manifest.recipe["image"])
        self.remote = url.local(place) is None or any(
            url.is_url(shard.name) and url.local(shard.name) is None for shard in self.listed
        )  # whether any file of the split has to be fetched
        self._cache = cache() if self.remote else None
        largest = max(1, *(shard.num_samples for shard in self.listed))
        self._max_open = max(1, min(max_open, MAX_SAMPLES // largest))
        self._num_read = 0  # shards that are read at a time
        self._open: OrderedDict[int, OpenShard] = OrderedDict()  # what was used longest ago comes first
        self._files: dict[tuple[OpenShard, str], None] = {}  # open of those, in the order of opening
        self._forks = _Forks.number
        self._renewals: Counter[int] = Counter()  # of a shard

    def __getitem__(self, number: int) -> OpenShard:
        opened = self._open.get(number) if self._forks is _Forks.number else None
        if opened is not None:
            self._open.move_to_end(number)
            return opened
        if self._forks is not _Forks.number:  # a forked loader process must not share what holds cached files
            self._open, self._files, self._forks = OrderedDict(), {}, _Forks.number
        while len(self._open) >= max(self._max_open, self._num_read):
            self._close(next(iter(self._open)))
        shard = self.listed[number]
        opened = self._open[number] = OpenShard(shard, self._index(shard))
        return opened

    def _close(self, number: int) -> None:
        opened = self._open.pop(number)
        opened.close()
        for name in (opened.shard.name, opened.shard.small):
            self._files.pop((opened, name), None)

    def _index(self, shard: Shard) -> np.ndarray:
        """In memory: [samples] records."""
        for _ in range(MAX_RENEWALS):
            held = self._fetched(shard.index, shard.index_bytes, shard.index_sha256)
            if held is None:
                return np.array(shard_format.open_index(locate(self.place, shard.index), shard))
            with held:
                try:  # by its descriptor: another process may put a new file in its place
                    with open(held.descriptor, "rb", closefd=False) as file:
                        return shard_format.parse_index(file.read(), shard)
                except ValueError:
                    if not self.cache.drop_damaged(held, shard.index_sha256):
                        raise
        raise ValueError(f"{self.cache.folder}: what is written there is damaged when it is read; replace the disk")

    def _renewed(self, number: int) -> bool:
        """Whether a shard was damaged in the cache; then it is fetched anew when it is read.

        It was too where another process has put a sound file in the place of that which is open here: or what is read
        would depend on which of them was first. Looks once each time that a file is opened.
        """
        opened = self._open[number]
        if self._renewals[number] >= MAX_RENEWALS:
            return False
        sha256 = {opened.shard.name: opened.shard.sha256, opened.shard.small: opened.shard.small_sha256}
        names = opened.held.keys() - opened.looked_at
        opened.looked_at |= names
        renewed = [name for name in names if self.cache.drop_damaged(opened.held[name], sha256[name])]
        if renewed:
            self._renewals[number] += 1
            self._close(number)
        return bool(renewed)

    @property
    def cache(self) -> Cache:
        """The cache of what is remote."""
        assert self._cache is not None
        return self._cache

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

    def _descriptor(
        self, opened: OpenShard, name: str, size: int, sha256: str, open_local: Callable[[str, Shard], int]
    ) -> int:
        while len(self._files) >= MAX_FILES:
            other, file = next(iter(self._files))
            other.close_file(file)
            del self._files[other, file]
        self._files[opened, name] = None
        held = self._fetched(name, size, sha256)
        if held is None:
            return open_local(locate(self.place, name), opened.shard)
        opened.held[name] = held
        return held.descriptor

    def reads(self, numbers: Collection[int]) -> None:
        """From now on these are read, in any order: so many may be open.

        What is remote and none of these is closed: what is open cannot be evicted from a cache.
        """
        self._num_read = len(numbers)
        if self.remote and self._forks is _Forks.number:
            for number in [number for number in self._open if number not in numbers]:
                self._close(number)

    def identity(self, place: Place) -> int:
        return self[place.shard].identities[place.row]

    def has_voice(self, place: Place) -> bool:
        return bool(self[place.shard].voiced[place.row])

    def level(self, place: Place, resolution: int) -> np.ndarray | None:
        """A picture of the small file, uint8 [3, R, R]; None where it has none. Raises DamagedSample."""
        end = levels.ENDS.get(resolution)
        if end is None:
            return None
        opened = self[place.shard]
        if end > opened.lod_lengths[place.row]:
            return None
        try:
            content = os.pread(opened.small or self._small(opened), end, opened.lod_offsets[place.row])
            return levels.parse(content, resolution)
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
        for start in range(0, len(self.listed), self._max_open):
            numbers = range(start, min(start + self._max_open, len(self.listed)))
            found = np.unique(np.concatenate([found, *(self[number].index["identity"] for number in numbers)]))
        return found

    def names(self, identities: np.ndarray) -> list[str]:
        """Identities, sorted, as the corpus writes them: from the first sample of each that can be read.

        Shards are closed one by one: from a cache, those that are open could not be evicted for the next.

        Raises DamagedSample where an identity has none.
        """
        found = [""] * len(identities)
        named = np.zeros(len(identities), dtype=bool)
        damaged: dict[int, DamagedSample] = {}
        for number in range(len(self.listed)):
            classes = np.searchsorted(identities, self[number].index["identity"])
            for row in np.flatnonzero(~named[classes]).tolist():
                which, place = int(classes[row]), Place(number, row)
                if named[which]:
                    continue
                try:
                    found[which] = self.identity_name(place, self.members(place, ["meta"])["meta"])
                    named[which] = True
                except DamagedSample as error:
                    damaged.setdefault(which, error)
            self._close(number)
        if not named.all():
            which = int(np.flatnonzero(~named)[0])
            raise DamagedSample(f"{url.shown(self.place)}: no sample of identity {identities[which]}: {damaged[which]}")
        return found

    def close(self) -> None:
        """Close the files that this process has open."""
        if self._forks is _Forks.number:
            for opened in self._open.values():
                opened.close()
        self._open, self._files = OrderedDict(), {}
