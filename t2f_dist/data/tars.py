"""Tars that nobody has indexed, read from end to end: samples in a seeded order, shuffled in a buffer, without end.

The stages are those of a webdataset.DataPipeline, and keys are webdataset's; the tars themselves are opened and read
here. webdataset takes a damaged or truncated tar for a shorter one, reads members of any size, and makes a shell of
some URLs: none of them reaches it. Only the members named here are read at all, none is ever unpickled, and a tar that
does not end as it should is told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from webdataset import utils as webdataset_switches
from webdataset.pipeline import DataPipeline
from webdataset.tariterators import base_plus_ext

from t2f_dist.data.positions import Stream, draw
from t2f_dist.shard.format import identity_number
from t2f_dist.shard.tar import DamagedTar, Member, fault, scan_through
from t2f_dist.storage import disk, url
from t2f_dist.storage.folder import Folder

# No pipe: and no pickle, whatever else in this process uses webdataset.
webdataset_switches.enforce_security = True  # pyright: ignore[reportAttributeAccessIssue]

IMAGES = ("jpg", "jpeg", "png", "webp")
VOICES = ("flac", "wav", "ogg", "mp3")
# Extension -> what it holds. No other member is read.
KINDS = {"txt": "text", "json": "meta"} | dict.fromkeys(IMAGES, "image") | dict.fromkeys(VOICES, "speech")
BYTES_MAX = {"image": 1 << 25, "text": 1 << 16, "meta": 1 << 20, "speech": 1 << 25}  # of one member
BLOCK = 1 << 23  # bytes of a remote tar that are fetched at once
SAMPLE_BYTES_MAX = sum(BYTES_MAX.values())
BUFFER_BYTES_MAX = 3 << 27  # of the samples that wait to be shuffled, of one loader process
OVERHEAD_BYTES = 1 << 10  # of a sample, beside its members: also places that are damaged take room


@dataclass(frozen=True)
class Streamed:
    """One sample of a tar, or a place of it that is damaged.

    Attributes:
        tar: its number in the list of tars.
        row: which sample of it, from 0.
        captions: UTF-8, a caption a line, as shards hold them.
        damage: why it cannot be used; empty if it can.
    """

    tar: int
    row: int
    key: str
    identity: int = 0
    image: bytes = b""
    captions: bytes = b""
    speech: bytes = b""
    damage: str = ""

    @property
    def num_bytes(self) -> int:
        return len(self.image) + len(self.captions) + len(self.speech) + OVERHEAD_BYTES


class Share(NamedTuple):
    """Whose samples: of each epoch's tars a rank has every `world_size`-th, and its loader process of those again."""

    seed: int
    start: int  # images seen when the stream was opened: a later stream is another
    rank: int
    world_size: int
    worker: int
    num_workers: int


def endless(tars: Sequence[str], share: Share, with_speech: bool, buffer_samples: int) -> Iterator[Streamed]:
    """Samples and damage without end: epoch after epoch the tars in another order, shuffled in a buffer.

    The order is a function of the arguments alone. Raises ValueError where no tar has a sample.
    """
    return iter(
        DataPipeline(
            partial(_order, tars, share),
            partial(_read_while_any, tars, with_speech),
            partial(_shuffle, share, buffer_samples),
        )
    )


def in_order(tars: Sequence[str], with_speech: bool) -> Iterator[Streamed]:
    """The samples and damage of all tars, once, as they stand there."""
    return iter(DataPipeline(partial(iter, range(len(tars))), partial(_read, tars, with_speech)))


def _order(tars: Sequence[str], share: Share) -> Iterator[int]:
    """Numbers of tars, epoch after epoch."""
    epoch = 0
    while True:
        numbers = draw(share.seed, Stream.SHARDS, epoch, part=share.start).permutation(len(tars))
        yield from numbers[share.rank :: share.world_size][share.worker :: share.num_workers].tolist()
        epoch += 1


def _read(tars: Sequence[str], with_speech: bool, numbers: Iterable[int]) -> Iterator[Streamed]:
    for number in numbers:
        row = -1
        try:
            for row, sample in enumerate(_samples(number, tars[number], with_speech)):
                yield replace(sample, row=row)
        except (DamagedTar, OSError) as error:
            reason = " ".join(str(error).split())
            yield Streamed(number, row + 1, "", damage=f"the rest of the tar: {reason}")


def _read_while_any(tars: Sequence[str], with_speech: bool, numbers: Iterable[int]) -> Iterator[Streamed]:
    """As `_read`, until every tar was dealt to this process since it last had a sample.

    An epoch of its share may be one tar, whose damage says nothing of the others; later epochs deal it those.
    """
    without: set[int] = set()
    for number in numbers:
        reason = "an empty tar"
        without.add(number)
        for sample in _read(tars, with_speech, [number]):
            if sample.damage:
                reason = sample.damage
            else:
                without.clear()
            yield sample
        if len(without) == len(tars):
            raise ValueError(f"no sample in any of {len(tars)} tars, such as {url.shown(tars[number])}: {reason}")


def _shuffle(share: Share, size: int, samples: Iterable[Streamed]) -> Iterator[Streamed]:
    """One of those that wait, drawn anew for each that comes."""
    # A generator of its own, since it goes on from sample to sample: that of `draw` is set anew by whoever draws next.
    key = np.array([share.seed, Stream.BUFFER], dtype=np.uint64)
    counter = np.array([0, share.start, share.rank, share.worker], dtype=np.uint64)
    random = np.random.Generator(np.random.Philox(key=key, counter=counter))
    waiting: list[Streamed] = []
    num_bytes = 0
    for sample in samples:
        waiting.append(sample)
        num_bytes += sample.num_bytes
        while len(waiting) >= size or num_bytes > BUFFER_BYTES_MAX - SAMPLE_BYTES_MAX:  # room for the next
            which = int(random.integers(len(waiting)))
            waiting[which], waiting[-1] = waiting[-1], waiting[which]
            chosen = waiting.pop()
            num_bytes -= chosen.num_bytes
            yield chosen


def _samples(number: int, place: str, with_speech: bool) -> Iterator[Streamed]:
    """The runs of members with one key. Raises DamagedTar where the tar is not whole, OSError where it is not there."""
    with _Opened(place) as opened:
        key: _Key | None = None
        for member in scan_through(opened.read, opened.size):
            if member.kind == "folder":
                continue
            name, suffix = base_plus_ext(member.name)
            if name is None or suffix is None:
                continue
            if key is None or name != key.name:
                if key and key.has_members:
                    yield key.sample(number, place)
                key = _Key(name)
            kind = KINDS.get(suffix.lower())
            if kind:
                key.has_members = True
                if kind != "speech" or with_speech:
                    key.add(kind, member, opened.read)
        if key and key.has_members:
            yield key.sample(number, place)


@dataclass
class _Key:
    """The members with one key, of which the first of a kind counts.

    Each is read as its header is met: so nothing is held but what the sample needs, however many there are, and what
    comes from elsewhere is asked for once.
    """

    name: str
    contents: dict[str, bytes] = field(default_factory=dict)
    damage: str = ""
    has_members: bool = False

    def add(self, kind: str, member: Member, read: Callable[[int, int], bytes]) -> None:
        if self.damage or kind in self.contents:
            return
        self.damage = fault(member)
        if not self.damage and member.size > BYTES_MAX[kind]:
            self.damage = f"{kind}: {member.size} bytes, more than {BYTES_MAX[kind]}"
        if not self.damage:
            self.contents[kind] = read(member.size, member.offset)
            self.damage = f"{kind}: cut off" if len(self.contents[kind]) < member.size else ""

    def sample(self, number: int, place: str) -> Streamed:
        """Of the tar of that number and place; its row is not known here."""
        if self.damage or "image" not in self.contents:
            return Streamed(number, 0, self.name, damage=self.damage or "no image")
        meta = self.contents.get("meta")
        try:
            meta = json.loads(meta) if meta else {}
        except (ValueError, RecursionError):
            return Streamed(number, 0, self.name, damage="meta: not JSON")
        meta = meta if isinstance(meta, dict) else {}
        identity = meta.get("identity")
        return Streamed(
            tar=number,
            row=0,
            key=self.name,
            identity=identity_number(identity if isinstance(identity, str) and identity else f"{place}/{self.name}"),
            image=self.contents["image"],
            captions=_captions(self.contents.get("text"), meta),
            speech=self.contents.get("speech", b""),
        )


def _captions(text: bytes | None, meta: dict) -> bytes:
    """Of our shards a caption a line; else the text as one caption, or where there is none, `caption` of the JSON."""
    if text is not None:
        lines = text.decode("utf-8", "replace").splitlines()
        captions = lines if "num_captions" in meta else [" ".join(lines)]
    else:
        caption = meta.get("caption")
        captions = [caption] if isinstance(caption, str) else []
    plain = (" ".join(caption.split()) for caption in captions)
    return "".join(caption + "\n" for caption in plain if caption).encode("utf-8", "replace")


class _Opened:
    """A tar, here or at a URL, read from its beginning to its end. A context.

    Raises OSError, also for a local pipe, of which a writer would be waited for, or a device.
    """

    def __init__(self, place: str):
        self.place = place
        self.size = 0
        self._path = url.local(place)
        self._descriptor = -1
        self._closing = ExitStack()
        self._start, self._block = 0, b""

    def __enter__(self) -> _Opened:
        if self._path is not None:
            self._descriptor = self._closing.enter_context(disk.opened(self._path)).fileno()
            self.size = os.fstat(self._descriptor).st_size
            return self
        folder, self._name = url.split(self.place)
        self._folder = Folder(folder)
        size = self._folder.size(self._name)
        if size is None:
            raise FileNotFoundError(f"{url.shown(self.place)}: no such file")
        self.size = size
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def read(self, length: int, start: int) -> bytes:
        """As `scan_through` wants it: no byte is fetched twice where starts grow from call to call."""
        if self._path is not None:
            return os.pread(self._descriptor, length, start)
        end = min(start + length, self.size)
        if not self._start <= start <= self._start + len(self._block):
            self._start, self._block = start, b""
        fetched = self._start + len(self._block)
        if end > fetched:
            # What is left of the block is kept: the member that reaches past it begins in it.
            rest = self._folder.read(self._name, fetched, max(end - fetched, BLOCK))
            self._start, self._block = start, self._block[start - self._start :] + rest
        return self._block[start - self._start :][:length]
