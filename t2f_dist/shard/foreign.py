"""One tar that somebody else wrote and that stays as it is: its index, its small file, and what became of its samples.

What is written is a function of the tar, its place and the recipe alone. The record comes last: a tar with a record is
done, whatever was killed when.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from pydantic import BaseModel, ValidationError

from t2f_dist.config.index import IndexRecipe
from t2f_dist.shard import format as shard_format
from t2f_dist.shard import levels
from t2f_dist.shard.corpus import split_of
from t2f_dist.shard.encode import clean_caption
from t2f_dist.shard.manifest import SPLITS, Kind, Shard, SplitName, digest
from t2f_dist.shard.picture import Rejected, opened, rgb, square
from t2f_dist.shard.sources import ORPHANED, Refusal
from t2f_dist.shard.sources.webdataset import Contents, Tar, contents
from t2f_dist.shard.tar import DamagedTar
from t2f_dist.shard.triplet import Fields, Piece, Said, Triplet
from t2f_dist.shard.writer import Written, caption_lines, write_index, write_small
from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder, write_file
from t2f_dist.text.words import words

FOLDER = ".index"  # of the records of an unfinished index
CAPTION_BYTES_MAX = 1 << 16
WORDS_MAX = 2_000_000  # that a tar adds to the vocabulary
WORD_LENGTH_MAX = 100  # letters; what is longer is a sentence in a script without spaces, or harm
CAPTIONS_MAX = 1000  # of one image
SHOWN_MAX = 1000  # letters of a refused caption
UNNAMED = "no caption names it"

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class Record(BaseModel):
    """What became of a tar.

    Attributes:
        build: the fingerprint of the recipe.
        stamp: changes with the tar.
        shards: by split; none where nothing of it is in one.
        found, stored: how many images and captions.
        counts: of the words of train's captions.
        damage: why nothing of it is used; empty: it is.
        position: of the damage, in bytes.
    """

    build: str
    place: str
    stamp: str
    shards: dict[SplitName, Shard] = {}
    found: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    unmatched: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    notes: list[str] = []
    damage: str = ""
    position: int = 0

    def stands(self, folder: Path) -> bool:
        """Whether its files are there, of the sizes that they were written with."""
        files = [(shard.index, shard.index_bytes) for shard in self.shards.values()]
        files += [(shard.small, shard.small_bytes) for shard in self.shards.values()]
        return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files)


@dataclass(frozen=True)
class ForeignTar:
    """The tar as a task of `t2f_dist.shard.engine`."""

    tar: Tar
    num_images: int = 0  # not known before it is read

    @property
    def name(self) -> str:
        """What its files are called after."""
        place = shard_place(self.tar)
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", self.tar.stem.rpartition("/")[2]).strip("-")[:60]
        return f"{plain or 'tar'}-{digest(place.encode())[:12]}"

    def record_path(self, out: Path) -> Path:
        return out / FOLDER / f"{self.name}.json"

    def rejected_path(self, out: Path) -> Path:
        return out / FOLDER / f"{self.name}.jsonl"

    def record(self, out: Path, build: str) -> Record | None:
        """Its record, if it is of this recipe and of the tar as it is now, and its files are there."""
        try:
            found = Record.model_validate_json(self.record_path(out).read_bytes())
        except (OSError, ValidationError):
            return None
        try:
            same = found.build == build and found.place == shard_place(self.tar) and found.stamp == stamp(self.tar)
        except OSError:  # of the tar; told where it is read
            return None
        return found if same and self.rejected_path(out).is_file() and found.stands(out) else None


def shard_place(tar: Tar) -> str:
    """The tar's URL, also of a local one. Raises ValueError for one with a password or a signature in it."""
    local = url.local(tar.place)
    if local is not None:
        return "file://" + quote(os.fsencode(os.path.abspath(local)))
    if "@" in tar.place.partition("://")[2].partition("/")[0]:
        raise ValueError(f"{url.shown(tar.place)}: a URL with a password would be kept in the manifest; leave it out")
    if url.scheme(tar.place) in ("http", "https") and re.search(r"[?#]", tar.place):
        raise ValueError(
            f"{url.shown(tar.place)}: the query of a URL, such as a signature, would be kept in the manifest; leave it"
            " out, and name a store as s3:// or gs://, with credentials in the environment"
        )
    return tar.place


def shard_name(tar: Tar, out: Path) -> str:
    """The tar's name in the manifest: plain where it lies beside it, else its URL."""
    local = url.local(tar.place)
    if local is not None and _PLAIN.fullmatch(local.name) and local.parent.resolve() == out.resolve():
        return local.name
    return shard_place(tar)


def stamp(tar: Tar) -> str:
    """What changes with a tar, as far as its server tells. Raises OSError."""
    local = url.local(tar.place)
    if local is not None:
        status = local.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    folder, name = url.split(tar.place)
    return tar.stamp or str(Folder(folder).size(name))


@dataclass(frozen=True)
class ForeignJob:
    """What all tars have in common, and the maker of their files; small, so that it goes to every worker."""

    recipe: IndexRecipe
    build: str

    def open(self) -> ForeignJob:
        return self

    def make(self, task: ForeignTar, advance: Callable[[], None]) -> None:
        """Write the files of a tar, then its record; `advance()` is called after each sample. Raises OSError."""
        out = Path(self.recipe.out)
        record = Record(build=self.build, place=shard_place(task.tar), stamp=stamp(task.tar))
        recipe = self.recipe
        fields = Fields(None if recipe.captions == "txt" else recipe.captions, recipe.identity)
        with task.tar.here() as path, Written(task.rejected_path(out)) as rejected:
            try:
                with contents(task.tar, path, fields) as held:
                    _Indexing(task, path, recipe, record, rejected).write(held, advance)
            except DamagedTar as error:
                record.damage, record.position = error.reason, error.position
            else:
                record.notes = held.notes
        write_file(task.record_path(out), record.model_dump_json().encode())


@dataclass
class _Side:
    """The files of one split, as they are written."""

    small: Written
    records: list[np.ndarray] = field(default_factory=list)


class _Indexing:
    def __init__(self, task: ForeignTar, path: Path, recipe: IndexRecipe, record: Record, rejected: Written):
        self.task, self.path, self.recipe, self.record, self.rejected = task, path, recipe, record, rejected
        self.out = Path(recipe.out)
        self.shown = task.tar.shown

    def write(self, held: Contents, advance: Callable[[], None]) -> None:
        with open(self.path, "rb") as stream:
            self.descriptor = stream.fileno()
            for repeated in held.repeated:
                self._refuse_repeated(repeated.part == "image", repeated.name, repeated.piece)
            sides: dict[SplitName, _Side] = {}
            with ExitStack() as stack:
                for triplet, said in held.samples:
                    sample = self._sample(triplet, said)
                    advance()
                    if sample is None:
                        continue
                    split, record, small_levels, captions = sample
                    if split not in sides:
                        path = self.out / f"{split}-{self.task.name}.small"
                        sides[split] = _Side(stack.enter_context(Written(path)))
                    write_small(sides[split].small, record, small_levels, caption_lines(captions))
                    sides[split].records.append(record)
                    self.record.stored.update(images=1, captions=len(captions))
                    if split == "train":
                        self._count_words(captions)
            stream.seek(0)
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
        for name in SPLITS:
            if name not in sides:
                continue
            side = sides[name]
            index = write_index(self.out / f"{name}-{self.task.name}.index.npy", side.records)
            self.record.shards[name] = Shard(
                name=shard_name(self.task.tar, self.out),
                num_samples=len(side.records),
                bytes=size,
                sha256=sha256,
                index=index.path.name,
                index_bytes=index.bytes,
                index_sha256=index.sha256,
                small=side.small.path.name,
                small_bytes=side.small.bytes,
                small_sha256=side.small.sha256,
            )

    def _sample(self, triplet: Triplet, said: Said) -> tuple[SplitName, np.ndarray, bytes, list[str]] | None:
        """Its split, index record, levels and captions; None where it is refused."""
        if triplet.image is None and not said.fault:
            self._count("captions", "unmatched", "names no image", triplet, said.captions)
            return None
        captions = []
        if not said.fault:
            captions = list(self._cleaned(triplet, said.captions))
        reason, status = said.fault, "rejected"
        if not reason and not said.captions:
            reason, status = UNNAMED, "unmatched"
        elif not reason and not captions:
            reason = "none of its captions is usable"
        small_levels, content = b"", b""
        if not reason and triplet.image is not None:
            content = os.pread(self.descriptor, triplet.image.size, triplet.image.offset)
            try:
                small_levels = self._levels(content, triplet.image.size)
            except Rejected as error:
                reason = str(error)
        if reason or triplet.image is None:
            self._count("images", status, reason, triplet, [""])
            self._count("captions", "rejected", ORPHANED, triplet, captions or (said.captions if said.fault else []))
            return None
        identity = said.identity or self.task.tar.identity(triplet.key)
        record = np.zeros((), dtype=shard_format.INDEX_DTYPE)
        record["image_offset"], record["image_length"] = triplet.image
        record["image_crc32"] = zlib.crc32(content)
        if triplet.facts is not None:
            facts = os.pread(self.descriptor, triplet.facts.size, triplet.facts.offset)
            record["meta_offset"], record["meta_length"] = triplet.facts
            record["meta_crc32"] = zlib.crc32(facts)
        record["identity"] = shard_format.identity_number(identity)
        record["num_captions"] = len(captions)
        self._found(1, len(captions))
        return split_of(identity, self.recipe.split), record, small_levels, captions

    def _count_words(self, captions: list[str]) -> None:
        counts = self.record.counts
        for word in (word for caption in captions for word in words(caption)):
            if len(word) <= WORD_LENGTH_MAX and (word in counts or len(counts) < WORDS_MAX):
                counts[word] += 1

    def _levels(self, content: bytes, size: int) -> bytes:
        if len(content) != size:
            raise Rejected(f"{len(content)} bytes in the tar where its header says {size}")
        if not size:
            raise Rejected("an empty file")
        if not self.recipe.levels:
            return b""
        recipe = self.recipe.image
        found = opened(lambda: content, recipe)
        return levels.record(square(rgb(found.image, recipe), recipe, size=found.size))

    def _cleaned(self, triplet: Triplet, captions: list[object]) -> Iterator[str]:
        for number, caption in enumerate(captions):
            text = clean_caption(caption) if isinstance(caption, str) else ""
            if number >= CAPTIONS_MAX:
                reason = f"more than {CAPTIONS_MAX} captions of one image"
            elif not isinstance(caption, str):
                reason = "not text"
            elif not words(text):
                reason = "a caption without a word" if text else "an empty caption"
            elif len(text.encode()) > CAPTION_BYTES_MAX:
                reason = f"a caption of {len(text.encode())} bytes, more than {CAPTION_BYTES_MAX}"
            else:
                yield text
                continue
            self._count("captions", "rejected", reason, triplet, [caption])

    def _count(self, kind: Kind, status: str, reason: str, triplet: Triplet, values: list[Any]) -> None:
        """A refusal for each of the values, which are captions; of an image, one that says nothing."""
        name = f"{self.task.tar.stem}/{triplet.name}"
        for value in values:
            text = value if isinstance(value, str) else repr(value)[:SHOWN_MAX]
            self._refuse(Refusal(kind, status, reason, name, text[:SHOWN_MAX], self.shown), triplet.position)

    def _refuse_repeated(self, image: bool, name: str, piece: Piece) -> None:
        reason, name = "its key stands twice in the tar", f"{self.task.tar.stem}/{name}"
        text = b"" if image else os.pread(self.descriptor, piece.size, piece.offset)
        value = text.decode("utf-8", "replace")[:SHOWN_MAX]
        kind: Kind = "images" if image else "captions"
        self._refuse(Refusal(kind, "rejected", reason, name, value, self.shown), piece.offset - shard_format.TAR_BLOCK)

    def _refuse(self, refusal: Refusal, position: int) -> None:
        self._found(*((1, 0) if refusal.kind == "images" else (0, 1)))
        (self.record.rejected if refusal.status == "rejected" else self.record.unmatched)[refusal.kind] += 1
        row = json.dumps(refusal.row() | {"position": position}, ensure_ascii=False)
        self.rejected.write((row + "\n").encode("utf-8", "replace"))

    def _found(self, images: int, captions: int) -> None:
        self.record.found.update(images=images, captions=captions)
