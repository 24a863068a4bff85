"""What a directory of shards holds, counted in one pass over indices, captions and sizes, in bounded memory."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from t2f_dist.inspection.shelf import Shelf
from t2f_dist.inspection.spread import Distinct, Spread
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import KINDS, SPLITS, Manifest, Shard
from t2f_dist.text.words import words

VERSION = 1  # of the JSON
SPEECH_STEP_SECONDS = 0.01
IMAGE_STEP_BYTES = 100
REASONS_MAX = 1_000  # different reasons of rejection that are told apart
REJECTED_BYTES_MAX = 1 << 30
REJECTED_LINE_BYTES_MAX = 1 << 24
REASON_LETTERS_MAX = 1_000
OTHER = "other reasons"
# The sizes that a picture had before it was stored, as shards and as img2dataset name them.
SIZES = (("source_width", "source_height"), ("original_width", "original_height"))


@dataclass
class SplitCensus:
    """The samples of one split.

    Attributes:
        identities: of all samples, by number.
        damaged: samples whose captions or sizes could not be read, which are left out of those.
        bytes: of the tars, indices and small files.
        member_bytes: of what is in them, by member.
        levels: samples with small levels of detail.
    """

    samples: int = 0
    shards: int = 0
    voices: int = 0
    without_captions: int = 0
    damaged: int = 0
    levels: int = 0
    bytes: Counter[str] = field(default_factory=Counter)
    member_bytes: Counter[str] = field(default_factory=Counter)
    identities: Distinct = field(default_factory=Distinct)
    shard_samples: Spread = field(default_factory=Spread)
    image_bytes: Spread = field(default_factory=lambda: Spread(IMAGE_STEP_BYTES))
    captions: Spread = field(default_factory=Spread)  # an image
    words: Spread = field(default_factory=Spread)  # a caption
    seconds: Spread = field(default_factory=lambda: Spread(SPEECH_STEP_SECONDS))  # a voice
    width: Spread = field(default_factory=Spread)  # of the source, pixels
    height: Spread = field(default_factory=Spread)
    shorter_side: Spread = field(default_factory=Spread)

    def to_dict(self, quick: bool, sizes: bool) -> dict[str, Any]:
        spreads = {
            "samples_per_identity": self.identities.occurrences(),
            "samples_per_shard": self.shard_samples,
            "image_bytes": self.image_bytes,
            "captions_per_image": self.captions,
            "words_per_caption": None if quick else self.words,
            "seconds_per_voice": self.seconds,
            "source_width": self.width if sizes else None,
            "source_height": self.height if sizes else None,
            "source_shorter_side": self.shorter_side if sizes else None,
        }
        return {
            "samples": self.samples,
            "shards": self.shards,
            "identities": self.identities.num,
            "identities_exact": self.identities.exact,
            "voices": self.voices,
            "without_captions": self.without_captions,
            "with_levels": self.levels,
            "damaged": None if quick else self.damaged,
            "bytes": {name: self.bytes[name] for name in ("tars", "indices", "small")},
            "member_bytes": {name: self.member_bytes[name] for name in shard_format.MEMBERS},
        } | {name: spread.to_dict() if spread else None for name, spread in spreads.items()}

    def merge(self, other: SplitCensus) -> None:
        """Add what another split holds, but for its identities."""
        for name in ("samples", "shards", "voices", "without_captions", "damaged", "levels"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.bytes.update(other.bytes)
        self.member_bytes.update(other.member_bytes)
        for name, mine in vars(self).items():
            if isinstance(mine, Spread):
                mine.merge(getattr(other, name))


@dataclass
class Rejection:
    """Things of one kind that were not stored for one reason, numbers in it aside."""

    kind: str  # images, captions, voices, or tars of others
    status: str  # rejected or unmatched
    reason: str
    count: int


@dataclass
class Census:
    """Attributes:
    place: as it was named.
    quick: only the manifest and the indices were read: no words, source sizes or rejections.
    sizes: the sources' sizes were read; they stand in the tars, so not where those are remote.
    tar_bytes: of all tars; of a tar of others, that several splits share, once.
    shared_identities: that are in more than one split.
    """

    place: str
    manifest: Manifest
    quick: bool
    sizes: bool
    splits: dict[str, SplitCensus]
    tar_bytes: int
    shared_identities: int
    rejections: list[Rejection] | None

    @property
    def whole(self) -> SplitCensus:
        """All splits as one; without identities."""
        total = SplitCensus()
        for split in self.splits.values():
            total.merge(split)
        total.bytes["tars"] = self.tar_bytes
        return total

    def to_dict(self) -> dict[str, Any]:
        """For JSON, as shards/README.md describes it: always the same keys."""
        manifest = self.manifest
        return {
            "format": "t2f-dist-inspect",
            "version": VERSION,
            "directory": self.place,
            "fingerprint": manifest.fingerprint,
            "quick": self.quick,
            "image_resolution": manifest.image_resolution,
            "image_format": manifest.image_format,
            "squared": manifest.squared,
            "sample_rate_hz": manifest.sample_rate_hz,
            "num_words": manifest.vocabulary.num_words if manifest.vocabulary else None,
            "embedding": manifest.embedding.model_dump(mode="json") if manifest.embedding else None,
            "duplicates": manifest.duplicates,
            "extensions": len(manifest.extensions),
            "totals": {kind: total.model_dump(mode="json") for kind, total in manifest.totals.items()},
            "tar_bytes": self.tar_bytes,
            "identities_in_several_splits": self.shared_identities,
            "rejections": None if self.rejections is None else [vars(rejection) for rejection in self.rejections],
            "splits": {name: split.to_dict(self.quick, self.sizes) for name, split in self.splits.items()},
        }


def take(place: str | Path, quick: bool = False, progress: bool = True) -> Census:
    """Count what the shards at a path or URL hold.

    Args:
        quick: read the manifest and the indices alone.
        progress: show a bar of samples.

    Raises:
        FileNotFoundError, ValueError, OSError: the manifest, an index or a small file is missing or damaged.
    """
    with Shelf(place) as shelf:
        manifest = shelf.manifest
        listed = [shard for split in SPLITS for shard in manifest.shards(split)]
        sizes = not quick and all(map(shelf.has_tar, listed))
        splits = {name: SplitCensus() for name in SPLITS}
        total = sum(map(manifest.num_samples, SPLITS))
        with tqdm(total=total, unit=" samples", desc="inspect", disable=not progress, leave=False) as bar:
            for name, split in splits.items():
                for shard in manifest.shards(name):
                    _count(split, shelf, shard, quick, sizes)
                    bar.update(shard.num_samples)
                split.identities.settle()
        sides = [split.identities for split in splits.values()]
        shared = sum(one.shared(other) for number, one in enumerate(sides) for other in sides[number + 1 :])
        rejections = None if quick else _rejections(shelf)
    tar_bytes = sum({shard.name: shard.bytes for shard in listed}.values())
    return Census(str(place), manifest, quick, sizes, splits, tar_bytes, shared, rejections)


def _count(split: SplitCensus, shelf: Shelf, shard: Shard, quick: bool, sizes: bool) -> None:
    with shelf.index(shard) as index:
        split.samples += len(index)
        split.shards += 1
        split.bytes.update(tars=shard.bytes, indices=shard.index_bytes, small=shard.small_bytes)
        split.member_bytes.update({name: int(index[f"{name}_length"].sum()) for name in shard_format.MEMBERS})
        split.identities.add(index["identity"])
        split.shard_samples.add(np.array([len(index)]))
        split.image_bytes.add(index["image_length"])
        split.captions.add(index["num_captions"])
        split.without_captions += int((index["num_captions"] == 0).sum())
        split.levels += int((index["lod_length"] > 0).sum())
        spoken = index["speech_samples"][index["speech_length"] > 0]
        split.voices += len(spoken)
        split.seconds.add(spoken / (shelf.manifest.sample_rate_hz or 1))
        if quick:
            return
        if shelf.manifest.vocabulary is not None:
            with shelf.small(shard) as small:
                lengths = [number for record in index for number in _words(split, small, record)]
            split.words.add(np.array(lengths, np.int64))
        if sizes:
            with shelf.tar(shard, index) as tar:
                found = np.array([size for record in index for size in _size(split, tar, record)]).reshape(-1, 2)
            split.width.add(found[:, 0])
            split.height.add(found[:, 1])
            split.shorter_side.add(found.min(axis=1, initial=1 << 32))


def _words(split: SplitCensus, small: int, record: np.void) -> list[int]:
    """In each caption of a sample."""
    try:
        captions = shard_format.captions(shard_format.captions_copy(small, record))
    except shard_format.DamagedSample:
        split.damaged += 1
        return []
    return [len(words(caption)) for caption in captions]


def _size(split: SplitCensus, tar: int, record: np.void) -> Iterator[tuple[int, int]]:
    """The (width, height) in pixels that a sample's picture had, where its meta member says so."""
    try:
        meta = json.loads(shard_format.member(tar, record, "meta") or b"null")
    except (shard_format.DamagedSample, ValueError, RecursionError):
        split.damaged += 1
        return
    for names in SIZES if isinstance(meta, dict) else ():
        width, height = (meta.get(name) for name in names)
        if type(width) is int and type(height) is int and min(width, height) > 0 and max(width, height) < 1 << 32:
            yield width, height
            return


def _rejections(shelf: Shelf) -> list[Rejection]:
    """By reason, the most frequent first."""
    file = shelf.manifest.rejected.file
    size = shelf.folder.size(file) or 0
    if size > REJECTED_BYTES_MAX:
        raise ValueError(f"{file} has {size} bytes, more than {REJECTED_BYTES_MAX}: look with --quick")
    found: Counter[tuple[str, str, str]] = Counter()
    with shelf.lines(file) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(REJECTED_LINE_BYTES_MAX), b""), start=1):
            try:
                key = _reason(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ValueError(
                    f"{file}, line {number}, is not a line of rejections; build the shards again"
                ) from None
            found[key if key in found or len(found) < REASONS_MAX else (*key[:2], OTHER)] += 1
    return [Rejection(*key, count) for key, count in found.most_common()]


def _reason(row: dict[str, Any]) -> tuple[str, str, str]:
    """Kind, status and reason: "12x30 pixels" and "31x8 pixels" are one. Raises as a row that is none does."""
    kind, status, reason = row["kind"], row["status"], row["reason"]
    if kind not in (*KINDS, "tars") or status not in ("rejected", "unmatched") or not isinstance(reason, str):
        raise ValueError(f"no rejection: {kind!r}, {status!r}")
    return kind, status, re.sub(r"\d+", "N", reason[:REASON_LETTERS_MAX])
