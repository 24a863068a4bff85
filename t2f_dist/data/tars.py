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
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from webdataset import utils as webdataset_switches
from webdataset.pipeline import DataPipeline
from webdataset.tariterators import base_plus_ext

from t2f_dist.data.positions import Stream, draw
from t2f_dist.shard.format import identity_number
from t2f_dist.shard.tar import DamagedTar, Member, fault, scan_through
from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder

# No pipe: and no pickle, whatever else in this process uses webdataset.
webdataset_switches.enforce_security = True  # pyright: ignore[reportAttributeAccessIssue]

IMAGES = ("jpg", "jpeg", "png", "webp")
VOICES = ("flac", "wav", "ogg", "mp3")
# Extension -> what it holds. No other member is read.
KINDS = {"txt": "text", "json": "meta"} | dict.fromkeys(IMAGES, "image") | dict.fromkeys(VOICES, "speech")
BYTES_MAX = {"image": 1 << 25, "text": 1 << 16, "meta": 1 << 20, "speech": 1 << 25}  # of one member
BLOCK = 1 << 23  # bytes of a remote tar that are fetched at once
BUFFER_BYTES_MAX = 1 << 29  # of the samples that wait to be shuffled, of one loader process


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
        return len(self.image) + len(self.captions) + len(self.speech)


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

    The order is a function of the arguments alone. Raises ValueError where a whole epoch has no sample.
    """
    return iter(
        DataPipeline(
            partial(_order, tars, share),
            partial(_read, tars, with_speech),
            partial(_shuffle, share, buffer_samples),
        )
    )


def in_order(tars: Sequence[str], with_speech: bool) -> Iterator[Streamed]:
    """The samples and damage of all tars, once, as they stand there."""
    return iter(DataPipeline(partial(iter, range(len(tars))), partial(_read, tars, with_speech)))


def _order(tars: Sequence[str], share: Share) -> Iterator[int]:
    """Numbers of tars; -1 where an epoch ends."""
    epoch = 0
    while True:
        numbers = draw(share.seed, Stream.SHARDS, epoch, part=share.start).permutation(len(tars))
        yield from numbers[share.rank :: share.world_size][share.worker :: share.num_workers].tolist()
        yield -1
        epoch += 1


def _read(tars: Sequence[str], with_speech: bool, numbers: Iterable[int]) -> Iterator[Streamed]:
    found, reason = 0, "empty tars"
    for number in numbers:
        if number < 0:
            if not found:
                raise ValueError(f"no sample in a whole epoch of the tars, such as {url.shown(tars[0])}: {reason}")
            found = 0
            continue
        row = -1
        try:
            for row, sample in enumerate(_samples(number, tars[number], with_speech)):
                found += not sample.damage
                reason = sample.damage or reason
                yield replace(sample, row=row)
        except (DamagedTar, OSError) as error:
            reason = " ".join(str(error).split())
            yield Streamed(number, row + 1, "", damage=f"the rest of the tar: {reason}")


def _shuffle(share: Share, size: int, samples: Iterable[Streamed]) -> Iterator[Streamed]:
    """One of those that wait, drawn anew for each that comes."""
    random = draw(share.seed, Stream.BUFFER, share.start, part=share.rank, lane=share.worker)
    waiting: list[Streamed] = []
    num_bytes = 0
    for sample in samples:
        waiting.append(sample)
        num_bytes += sample.num_bytes
        while len(waiting) >= size or num_bytes > BUFFER_BYTES_MAX:
            which = int(random.integers(len(waiting)))
            waiting[which], waiting[-1] = waiting[-1], waiting[which]
            chosen = waiting.pop()
            num_bytes -= chosen.num_bytes
            yield chosen


def _samples(number: int, place: str, with_speech: bool) -> Iterator[Streamed]:
    """The runs of members with one key. Raises DamagedTar where the tar is not whole, OSError where it is not there."""
    with _Opened(place) as opened:
        members: list[Member] = []
        key: str | None = None
        for member in scan_through(opened.read, opened.size):
            if member.kind == "folder":
                continue
            own, suffix = base_plus_ext(member.name)
            if own is None or suffix is None:
                continue
            if own != key:
                if members:
                    yield _sample(number, place, key or "", members, opened.read, with_speech)
                members, key = [], own
            if suffix.lower() in KINDS:
                members.append(member)
        if members:
            yield _sample(number, place, key or "", members, opened.read, with_speech)


def _sample(
    number: int,
    place: str,
    key: str,
    members: Sequence[Member],
    read: Callable[[int, int], bytes],
    with_speech: bool,
) -> Streamed:
    """From the members of a key, of which the first of a kind counts."""
    contents: dict[str, bytes] = {}
    for member in members:
        kind = KINDS[str(base_plus_ext(member.name)[1]).lower()]
        if kind in contents or (kind == "speech" and not with_speech):
            continue
        reason = fault(member)
        if not reason and member.size > BYTES_MAX[kind]:
            reason = f"{kind}: {member.size} bytes, more than {BYTES_MAX[kind]}"
        if not reason:
            contents[kind] = read(member.size, member.offset)
            reason = f"{kind}: cut off" if len(contents[kind]) < member.size else ""
        if reason:
            return Streamed(number, 0, key, damage=reason)
    if "image" not in contents:
        return Streamed(number, 0, key, damage="no image")
    try:
        meta = json.loads(contents["meta"]) if contents.get("meta") else {}
    except (ValueError, RecursionError):
        return Streamed(number, 0, key, damage="meta: not JSON")
    meta = meta if isinstance(meta, dict) else {}
    identity = meta.get("identity")
    return Streamed(
        tar=number,
        row=0,
        key=key,
        identity=identity_number(identity if isinstance(identity, str) and identity else f"{place}/{key}"),
        image=contents["image"],
        captions=_captions(contents.get("text"), meta),
        speech=contents.get("speech", b""),
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
    """A tar, here or at a URL, read from its beginning to its end. A context. Raises OSError."""

    def __init__(self, place: str):
        self.place = place
        self.size = 0
        self._path = url.local(place)
        self._descriptor = -1
        self._start, self._block = 0, b""

    def __enter__(self) -> _Opened:
        if self._path is not None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
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
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, length: int, start: int) -> bytes:
        if self._path is not None:
            return os.pread(self._descriptor, length, start)
        if start < self._start or start + length > self._start + len(self._block):
            self._start, self._block = start, self._folder.read(self._name, start, max(length, BLOCK))
        return self._block[start - self._start :][:length]
