"""A position and a resolution -> an item: the sample read through the index, and all that is drawn for it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from t2f_dist.config.condition import LogMel, Lstm, Modality, Stored, Waveform
from t2f_dist.config.loss import AUGMENT_DRAWS
from t2f_dist.data.batch import Damage, Item
from t2f_dist.data.captions import Caption, Captions, similarity
from t2f_dist.data.order import Order, Place, Window
from t2f_dist.data.positions import Stream, draw
from t2f_dist.data.shards import Shards
from t2f_dist.data.speech import listen
from t2f_dist.shard import format as shard_format
from t2f_dist.text.vocabulary import Vocabulary

MAX_SUBSTITUTES = 16  # damaged samples in a row before the data is given up
MAX_IDENTITY_TRIES = 64  # draws in search of another identity
NO_DRAWS = np.zeros((3, 0), np.float32)
MAX_LOOKED_AT = 4096  # samples, in search of examples

Condition = dict[str, np.ndarray]
"""Modality -> tokens int64 [T], stored embedding float32 [1, D], voice int16 [T] or class int64 [1]; empty: none."""


@dataclass(frozen=True)
class Wanted:
    """What an item holds beside its image.

    Attributes:
        modalities: of the condition, by name.
        mismatched: "condition", "image", both or neither: of a sample of another identity.
        mismatch_candidates: that sample is, of this many, the one whose caption shares the largest part of its words
            with the sample's own: the nearer, the finer the difference to be learnt.
        z_size, noise_size: lengths of the noise vectors.
        flip: mirror half of the images.
        max_words: captions are cut to this many words.
        identities: number the identities of the split.
        dropout, augment: draw what decides the generator's dropout, and the augmentation.
    """

    modalities: Mapping[str, Modality] = field(default_factory=dict)
    mismatched: frozenset[str] = frozenset()
    mismatch_candidates: int = 1
    z_size: int = 0
    noise_size: int = 0
    flip: bool = False
    max_words: int = 100
    identities: bool = False
    dropout: bool = False
    augment: bool = False


class Example(NamedTuple):
    """A sample's whole condition, with nothing drawn."""

    condition: Condition
    label: str  # for people: its caption, else whose voice or identity it is


class Samples(Dataset[Item]):
    """Random access by (position, resolution); the same item in every process.

    Args:
        folder: with manifest.json.
        split: train, validation or test.
        seed: of the run; with the position it decides everything drawn.
        window_shards: see `Order`.
        wanted: what an item holds.
        train_split: the split whose identities are numbered; one that is not in it has no class.

    Raises:
        FileNotFoundError, ValueError: the shards are missing, damaged, hold nothing in `split`, or lack a modality.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        seed: int,
        window_shards: int,
        wanted: Wanted,
        train_split: str | None = None,
    ):
        self.folder = Path(folder)
        self.shards = Shards(self.folder, split)
        self.manifest = self.shards.manifest
        self.order = Order([shard.num_samples for shard in self.shards.listed], seed, window_shards)
        self.seed = seed
        self.wanted = wanted
        self.caption = wanted.modalities.get("caption")
        self.speech = wanted.modalities.get("speech")
        _check_held(self.manifest, self.folder, wanted.modalities)
        self.vocabulary: Vocabulary | None = None
        self.captions: Captions | None = None
        if self.caption is not None and self.manifest.vocabulary is not None:
            self.vocabulary = Vocabulary.from_json(self.manifest.read_vocabulary(self.folder))
            self.captions = Captions(self.vocabulary, wanted.max_words)
        self.identities: list[int] = []  # in the order of their classes
        self.identity_names: list[str] = []  # where they are a condition
        if wanted.identities or "identity" in wanted.modalities:
            other = train_split not in (None, split)
            numbered = Shards(self.folder, train_split) if other and train_split else self.shards
            self.identities = numbered.identities().tolist()
            if "identity" in wanted.modalities:
                self.identity_names = numbered.names(self.identities)
        self._classes = {identity: number for number, identity in enumerate(self.identities)}
        # In the order of the tar, so that one read spans them.
        self._names = ["image"]
        self._names += ["captions"] if self.captions else []
        self._names += ["speech"] if self.speech else []
        self._names += ["embeddings"] if isinstance(self.caption, Stored) else []

    def __getitem__(self, request: tuple[int, int]) -> Item:
        position, resolution = request
        window, index = self.order.window(position)
        damage: list[Damage] = []
        for attempt in range(MAX_SUBSTITUTES):
            place = window.place(index)
            try:
                members = self._members(place, self._names)
                image = decode(members["image"], resolution)
                choice = int(draw(self.seed, Stream.CAPTION, position).integers(2**32))
                condition = self._condition(place, members, choice, self._start(position, 0))
                break
            except shard_format.DamagedSample as error:
                damage.append(Damage(position, self.shards.listed[place.shard].name, place.row, str(error)))
                index = int(draw(self.seed, Stream.SUBSTITUTE, position, attempt).integers(len(window)))
        else:
            raise ValueError(
                f"{MAX_SUBSTITUTES} damaged samples in a row at position {position}, the last in {damage[-1].shard}:"
                f" {damage[-1].reason}; run `t2f-dist verify {self.folder}`"
            )
        absent = self._withheld(position, condition) | {name for name in condition if not len(condition[name])}
        mismatched, other_image, other_identity = self._mismatched(
            position, resolution, window, place, choice, condition
        )
        if "condition" in self.wanted.mismatched:
            # What only one of the two has would tell them apart. If nothing is left, there is no mismatched condition.
            lacking = {name for name in condition if not len(mismatched[name])}
            absent |= lacking if condition.keys() - absent - lacking else set()
        wanted = self.wanted
        if wanted.flip and draw(self.seed, Stream.FLIP, position).random() < 0.5:
            image, other_image = image[:, ::-1], other_image[:, ::-1]
        identity = self.shards.identity(place)
        return Item(
            position=position,
            image=image,
            condition=_without(condition, absent),
            mismatched=_without(mismatched, absent),
            mismatched_image=other_image,
            mismatched_identity=other_identity,
            identity=identity,
            identity_class=self._classes.get(identity, -1),
            z=draw(self.seed, Stream.Z, position).standard_normal(wanted.z_size),
            noise=draw(self.seed, Stream.CONDITION, position).standard_normal(wanted.noise_size),
            mixing=float(draw(self.seed, Stream.MIXING, position).random()),
            dropout_key=int(draw(self.seed, Stream.DROPOUT, position).integers(2**63)) if wanted.dropout else 0,
            augment=draw(self.seed, Stream.AUGMENT, position).random((3, AUGMENT_DRAWS), np.float32)
            if wanted.augment
            else NO_DRAWS,
            damage=tuple(damage),
        )

    def _members(self, place: Place, names: Sequence[str]) -> dict[str, bytes]:
        """Those of `names` that have to be read: captions are kept at hand. Raises DamagedSample."""
        if self.captions is not None and self.captions.get(place) is not None:
            names = [name for name in names if name != "captions"]
        return self.shards.members(place, names) if names else {}

    def _start(self, position: int, part: int) -> float:
        return float(draw(self.seed, Stream.SPEECH, position, part).random()) if self.speech else 0.0

    def _condition(self, place: Place, members: dict[str, bytes], choice: int, start: float) -> Condition:
        """All that a sample has of what is wanted: the caption that a number chooses, the voice from `start` on."""
        condition: Condition = {}
        if self.captions is not None and self.captions.get(place) is None:
            self.captions.read(place, members["captions"])
        if isinstance(self.caption, Lstm):
            assert self.captions is not None
            captions = self.captions.get(place)
            condition["caption"] = captions[choice % len(captions)].tokens if captions else np.zeros(0, np.int64)
        elif self.caption is not None:
            rows = shard_format.embeddings(members["embeddings"])
            which = choice % max(1, len(rows))
            condition["caption"] = rows[which : which + 1]
        if isinstance(self.speech, LogMel | Waveform):
            content = members["speech"]
            condition["speech"] = listen(content, self.speech.seconds, start) if content else np.zeros(0, np.int16)
        if "identity" in self.wanted.modalities:
            number = self._classes.get(self.shards.identity(place))
            condition["identity"] = np.array([] if number is None else [number], dtype=np.int64)
        return condition

    def _withheld(self, position: int, condition: Condition) -> set[str]:
        """Modalities that this position does without; never all of those that it has."""
        shares = {name: modality.dropout for name, modality in self.wanted.modalities.items()}
        if not any(shares.values()):
            return set()
        draws = dict(zip(shares, draw(self.seed, Stream.MODALITY, position).random(len(shares)), strict=True))
        present = [name for name in shares if len(condition[name])]
        withheld = {name for name in present if draws[name] < shares[name]}
        if present and len(withheld) == len(present):
            withheld.remove(max(present, key=lambda name: draws[name] / shares[name]))
        return withheld

    def _mismatched(
        self, position: int, resolution: int, window: Window, place: Place, choice: int, own: Condition
    ) -> tuple[Condition, np.ndarray, int]:
        """The condition and the image of a sample of another identity, and whose; empty where they are not wanted."""
        condition: Condition = {name: values[:0] for name, values in own.items()}
        image = np.zeros((0, 0, 3), np.uint8)
        if not self.wanted.mismatched:
            return condition, image, self.shards.identity(place)
        names = self._names[1:] if "condition" in self.wanted.mismatched else []
        names = ["image", *names] if "image" in self.wanted.mismatched else names
        for other, other_choice in self._nearest(position, window, place, choice, own):
            try:
                members = self._members(other, names)
                if "condition" in self.wanted.mismatched:
                    condition = self._condition(other, members, other_choice, self._start(position, 1))
                if "image" in self.wanted.mismatched:
                    image = decode(members["image"], resolution)
            except shard_format.DamagedSample:
                continue  # counted where it is read as a sample
            return condition, image, self.shards.identity(other)
        raise ValueError(
            f"{self.folder}: no second identity within {self.order.window_shards} shards of position {position}:"
            " mismatched conditions and images need at least two; raise data.shuffle_window_shards, or shard with"
            " --identity"
        )

    def _nearest(
        self, position: int, window: Window, place: Place, choice: int, own: Condition
    ) -> list[tuple[Place, int]]:
        """Samples of other identities that have what the sample has, the nearest in words first; the caption each.

        Where none of those drawn has it all, the first of another identity.
        """
        identity, num = self.shards.identity(place), self.wanted.mismatch_candidates
        has_voice = len(own.get("speech", ())) > 0
        own_caption = self._caption(place, choice)
        found: list[tuple[float, Place, int]] = []
        lacking: list[tuple[Place, int]] = []
        draws = draw(self.seed, Stream.MISMATCH, position).integers(2**32, size=(num + MAX_IDENTITY_TRIES, 2))
        num_places = len(window)
        for which, other_choice in draws.tolist():
            other = window.place(which % num_places)
            shard = self.shards[other.shard]
            if shard.identities[other.row] == identity:
                continue
            if has_voice and not shard.voiced[other.row]:
                lacking.append((other, other_choice))
                continue
            nearness = 0.0
            if own_caption is not None:
                caption = self._caption(other, other_choice)
                if caption is None:
                    lacking.append((other, other_choice))
                    continue
                nearness = similarity(own_caption, caption)
            found.append((nearness, other, other_choice))
            if len(found) == num:
                break
        found.sort(key=lambda each: -each[0])
        return [(other, other_choice) for _, other, other_choice in found] or lacking

    def _caption(self, place: Place, choice: int) -> Caption | None:
        """The caption of a sample that a number chooses; None where it has none, or is damaged."""
        if self.captions is None:
            return None
        captions = self.captions.get(place)
        if captions is None:
            try:
                captions = self.captions.read(place, self.shards.members(place, ["captions"])["captions"])
            except shard_format.DamagedSample:
                return None  # counted where it is read as a sample
        return captions[choice % len(captions)] if captions else None

    def examples(self, num: int) -> list[Example]:
        """The first samples that have all that is wanted, in the order of the shards; no two of the same label.

        Fewer than `num`, where they are rare among the first few thousand.
        """
        found: dict[str, Example] = {}
        places = (Place(n, row) for n, shard in enumerate(self.shards.listed) for row in range(shard.num_samples))
        for place in islice(places, MAX_LOOKED_AT):
            try:
                members = self._members(place, self._names)
                condition = self._condition(place, members, choice=0, start=0.0)
            except shard_format.DamagedSample:
                continue  # counted where it is read as a sample
            if not all(len(values) for values in condition.values()):
                continue
            label = self._label(place, condition)
            found.setdefault(label, Example(condition, label))
            if len(found) == num:
                break
        return list(found.values())

    def _label(self, place: Place, condition: Condition) -> str:
        voice = f"voice of {self.shards.key(place)}" if "speech" in condition else ""
        if self.caption is None:
            return voice or self.identity_names[int(condition["identity"][0])]
        texts = shard_format.captions(self.shards.members(place, ["captions"])["captions"])
        return f"{texts[0]} ({voice})" if voice else texts[0]

    def close(self) -> None:
        """Close the tars that this process has open."""
        self.shards.close()


def _check_held(manifest: shard_format.Manifest, folder: Path, modalities: Mapping[str, Modality]) -> None:
    """Raise ValueError for a modality that the shards lack."""
    if isinstance(modalities.get("caption"), Lstm) and manifest.vocabulary is None:
        raise ValueError(f"{folder} holds no captions: shard with --captions, or set condition.caption null")
    if isinstance(modalities.get("caption"), Stored) and manifest.embedding is None:
        raise ValueError(
            f"{folder} holds no caption embeddings: shard with --embed MODEL_DIR, or use condition.caption.kind lstm"
        )
    if "speech" in modalities and manifest.sample_rate_hz is None:
        raise ValueError(f"{folder} holds no voices: shard with --speech, or set condition.speech null")


def _without(condition: Condition, absent: set[str]) -> Condition:
    return {name: values[:0] if name in absent else values for name, values in condition.items()}


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
