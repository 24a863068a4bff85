"""A position and a resolution -> an item: the sample read through the index, and all that is drawn for it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from t2f_dist.data.batch import Damage, Item
from t2f_dist.data.order import Order, Place, Window
from t2f_dist.data.positions import Stream, draw
from t2f_dist.shard import format as shard_format
from t2f_dist.text.vocabulary import UNKNOWN, Vocabulary

MAX_SUBSTITUTES = 16  # damaged samples in a row before the data is given up
MAX_IDENTITY_TRIES = 64  # draws in search of another identity
MAX_OPEN_SHARDS = 64
MAX_CACHED_CAPTIONS = 16384  # samples whose words are kept: about as many as a window of shards holds


class OpenShard(NamedTuple):
    descriptor: int  # of the tar
    index: np.ndarray  # [samples] records
    identities: list[int]  # [samples]; the same as in the index, but fast to look up one by one

    def member(self, row: int, name: str) -> bytes:
        return shard_format.member(self.descriptor, self.index[row], name)


Caption = tuple[list[int], int]  # word numbers in order, and which words they are, a bit each


class Samples(Dataset[Item]):
    """Random access by (position, resolution); the same item in every process.

    Args:
        shards: folder with manifest.json.
        split: train, validation or test.
        seed: of the run; with the position it decides everything drawn.
        window_shards: see `Order`.
        z_size, condition_size: lengths of the noise vectors.
        flip: mirror half of the images.
        max_words: captions are cut to this many words.
        mismatch_candidates: the mismatched caption is, of this many captions of other identities, the one that shares
            the largest part of its words with the sample's own: the nearer, the finer the difference to be learnt.

    Raises:
        FileNotFoundError, ValueError: the shards are missing, damaged, or hold nothing in `split`.
    """

    def __init__(
        self,
        shards: str | Path,
        split: str,
        seed: int,
        *,
        window_shards: int,
        z_size: int,
        condition_size: int,
        flip: bool = False,
        max_words: int = 100,
        mismatch_candidates: int = 1,
    ):
        self.folder = Path(shards)
        self.manifest = shard_format.Manifest.load(self.folder)
        self.shards = self.manifest.shards(split)
        if not self.shards:
            filled = [name for name in shard_format.SPLITS if self.manifest.num_samples(name)]
            raise ValueError(f"{self.folder} has no sample in the split {split!r}; there are some in {filled}")
        self.vocabulary = Vocabulary.from_json(self.manifest.read_vocabulary(self.folder))
        self.order = Order([shard.num_samples for shard in self.shards], seed, window_shards)
        self.seed = seed
        self.z_size = z_size
        self.condition_size = condition_size
        self.flip = flip
        self.max_words = max_words
        self.mismatch_candidates = mismatch_candidates
        self._open: dict[int, OpenShard] = {}
        self._process = os.getpid()
        self._captions: dict[Place, list[Caption]] = {}

    def __getitem__(self, request: tuple[int, int]) -> Item:
        position, resolution = request
        window, index = self.order.window(position)
        damage: list[Damage] = []
        for attempt in range(MAX_SUBSTITUTES):
            place = window.place(index)
            try:
                image, captions = self._read(place, resolution)
                break
            except shard_format.DamagedSample as error:
                damage.append(Damage(position, self.shards[place.shard].name, place.row, str(error)))
                index = int(draw(self.seed, Stream.SUBSTITUTE, position, attempt).integers(len(window)))
        else:
            raise ValueError(
                f"{MAX_SUBSTITUTES} damaged samples in a row at position {position}, the last in {damage[-1].shard}:"
                f" {damage[-1].reason}; run `t2f-dist verify {self.folder}`"
            )
        tokens, _ = captions[int(draw(self.seed, Stream.CAPTION, position).integers(len(captions)))]
        if self.flip and draw(self.seed, Stream.FLIP, position).random() < 0.5:
            image = image[:, ::-1]
        return Item(
            position=position,
            image=image,
            tokens=tokens,
            mismatched_tokens=self._mismatched(position, window, place, tokens),
            z=draw(self.seed, Stream.Z, position).standard_normal(self.z_size),
            condition_noise=draw(self.seed, Stream.CONDITION, position).standard_normal(self.condition_size),
            mixing=float(draw(self.seed, Stream.MIXING, position).random()),
            damage=tuple(damage),
        )

    def _read(self, place: Place, resolution: int) -> tuple[np.ndarray, list[Caption]]:
        if place in self._captions:
            return decode(self._shard(place.shard).member(place.row, "image"), resolution), self._captions[place]
        members = self.members(place)
        return decode(members["image"], resolution), self._encode(place, members["captions"])

    def _encode(self, place: Place, content: bytes) -> list[Caption]:
        """A sample's captions as word numbers, kept at hand; a sample without any is one unknown word."""
        texts = shard_format.captions(content) or [""]
        captions = [self.vocabulary.encode(text, self.max_words) or [UNKNOWN] for text in texts]
        if len(self._captions) >= MAX_CACHED_CAPTIONS:
            self._captions.clear()
        self._captions[place] = [(tokens, _word_set(tokens)) for tokens in captions]
        return self._captions[place]

    def _mismatched(self, position: int, window: Window, place: Place, own: list[int]) -> list[int]:
        """A caption of another identity from the same window: the nearest in words of some candidates."""
        identity = self._shard(place.shard).identities[place.row]
        own_words = _word_set(own)
        nearest: list[int] = []
        similarity, found = -1.0, 0
        num_draws = self.mismatch_candidates + MAX_IDENTITY_TRIES
        draws = draw(self.seed, Stream.MISMATCH, position).integers(2**32, size=(num_draws, 2)).tolist()
        for which, choice in draws:
            other = window.place(which % len(window))
            shard = self._shard(other.shard)
            if shard.identities[other.row] == identity:
                continue
            captions = self._captions.get(other)
            if captions is None:
                try:
                    captions = self._encode(other, shard.member(other.row, "captions"))
                except shard_format.DamagedSample:
                    continue  # counted where it is read as a sample
            tokens, words = captions[choice % len(captions)]
            overlap = (words & own_words).bit_count() / (words | own_words).bit_count()  # Jaccard
            if overlap > similarity:
                nearest, similarity = tokens, overlap
            found += 1
            if found == self.mismatch_candidates:
                break
        if not nearest:
            raise ValueError(
                f"{self.folder}: no second identity within {self.order.window_shards} shards of position {position}:"
                " mismatched captions need at least two; raise data.shuffle_window_shards, or shard with --identity"
            )
        return nearest

    def _shard(self, number: int) -> OpenShard:
        if self._process != os.getpid():  # a forked loader process must not share file descriptors
            self._open, self._process = {}, os.getpid()
        if number not in self._open:
            while len(self._open) >= MAX_OPEN_SHARDS:
                oldest = next(iter(self._open))
                os.close(self._open.pop(oldest).descriptor)
            shard = self.shards[number]
            index = np.asarray(shard_format.open_index(self.folder, shard))
            descriptor = shard_format.open_shard(self.folder, shard)
            self._open[number] = OpenShard(descriptor, index, index["identity"].tolist())
        return self._open[number]

    def members(self, place: Place) -> dict[str, bytes]:
        """The encoded image and captions of a sample. Raises DamagedSample."""
        shard = self._shard(place.shard)
        return shard_format.read_sample(shard.descriptor, shard.index[place.row], ("image", "captions"))

    def some_captions(self, num: int) -> list[str]:
        """The first caption of the first `num` samples that have one, in the order of the shards; no two the same."""
        found: dict[str, None] = {}
        for number, shard in enumerate(self.shards):
            for row in range(shard.num_samples):
                try:
                    captions = shard_format.captions(self._shard(number).member(row, "captions"))
                except shard_format.DamagedSample:
                    continue  # counted where it is read as a sample
                found.update(dict.fromkeys(captions[:1]))
                if len(found) == num:
                    return list(found)
        return list(found)

    def close(self) -> None:
        """Close the tars that this process has open."""
        if self._process == os.getpid():
            for shard in self._open.values():
                os.close(shard.descriptor)
        self._open = {}


def _word_set(tokens: list[int]) -> int:
    """Whole numbers as sets: union, intersection and size are single operations."""
    words = 0
    for token in tokens:
        words |= 1 << token
    return words


def decode(content: bytes, resolution: int) -> np.ndarray:
    """An encoded image, box-filtered down to `resolution`. -> uint8 [R, R, 3]

    Raises DamagedSample where it is no image, or smaller than the resolution.
    """
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise shard_format.DamagedSample(f"image: cannot be decoded ({error})") from None
    factor, rest = divmod(image.width, resolution)
    if rest or factor < 1 or image.width != image.height:
        raise shard_format.DamagedSample(f"image: {image.width}x{image.height} has no whole reduction to {resolution}")
    return np.asarray(image if factor == 1 else image.reduce(factor))
