"""A position and a resolution -> an item: the sample read through the index, and all that is drawn for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from t2f_dist.config.condition import LogMel, Lstm, Modality, Stored, Waveform
from t2f_dist.data.batch import Batch, Damage, Item, collate
from t2f_dist.data.captions import Caption, Captions, similarity
from t2f_dist.data.noise import NOTHING, Wishes, draw_noise
from t2f_dist.data.order import Order, Place, Window, lanes
from t2f_dist.data.positions import Stream, draw
from t2f_dist.data.shards import MAX_OPEN, Shards
from t2f_dist.data.speech import listen
from t2f_dist.shard import format as shard_format
from t2f_dist.shard import levels
from t2f_dist.shard.manifest import Manifest
from t2f_dist.storage.cache import Cache
from t2f_dist.text.vocabulary import Vocabulary

MAX_SUBSTITUTES = 16  # damaged samples in a row before the data is given up
MAX_IDENTITY_TRIES = 64  # draws in search of another identity
NO_IMAGE = np.zeros((3, 0, 0), np.uint8)
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
        flip: mirror half of the images.
        max_words: captions are cut to this many words.
        identities: number the identities of the split.
        wishes: the noise of a batch.
    """

    modalities: Mapping[str, Modality] = field(default_factory=dict)
    mismatched: frozenset[str] = frozenset()
    mismatch_candidates: int = 1
    flip: bool = False
    max_words: int = 100
    identities: bool = False
    wishes: Wishes = NOTHING

    @cached_property
    def dropout(self) -> dict[str, float]:
        """How often each modality is withheld; empty where none ever is."""
        shares = {name: modality.dropout for name, modality in self.modalities.items()}
        return shares if any(shares.values()) else {}


class Request(NamedTuple):
    """What stands at a position: `turn` counts the samples of its lane, -1 where there is one lane: the position."""

    position: int
    resolution: int
    lane: int = 0
    turn: int = -1


class Example(NamedTuple):
    """A sample's whole condition, with nothing drawn."""

    condition: Condition
    label: str  # for people: its caption, else whose voice or identity it is


class Samples(Dataset[Item]):
    """Random access by `Request`, or (position, resolution); the same item in every process.

    Args:
        place: folder or URL, with manifest.json.
        split: train, validation or test.
        seed: of the run; with the position it decides everything drawn.
        window_shards, num_lanes: see `Order`.
        wanted: what an item holds.
        train_split: the split whose identities are numbered; one that is not in it has no class.
        cache: for shards that are remote.

    Raises:
        FileNotFoundError, ValueError: the shards are missing, damaged, hold nothing in `split`, or lack a modality.
    """

    note = ""  # what a run that resumes is told of its data

    remote = False  # whether shards are fetched into a cache

    def __init__(
        self,
        place: str | Path,
        split: str,
        seed: int,
        window_shards: int,
        wanted: Wanted,
        train_split: str | None = None,
        num_lanes: int = 1,
        cache: Cache | None = None,
    ):
        self.place = place
        self.remedy = f"run `t2f-dist verify {place}`"  # where many samples are damaged
        # Of remote shards no more at a time than the cache is made for: this window and the next.
        max_open = min(MAX_OPEN, 2 * window_shards) if cache else MAX_OPEN
        self.shards = Shards(place, split, cache, max_open)
        self.manifest = self.shards.manifest
        counts = [shard.num_samples for shard in self.shards.listed]
        if num_lanes > len(counts):
            raise ValueError(f"data.lanes {num_lanes} is more than the {len(counts)} shards of {split}: lower it")
        self.lanes = lanes(counts, seed, window_shards, num_lanes)
        self.seed = seed
        self.wanted = wanted
        self.caption = wanted.modalities.get("caption")
        self.speech = wanted.modalities.get("speech")
        _check_held(self.manifest, place, wanted.modalities)
        self.vocabulary: Vocabulary | None = None
        self.captions: Captions | None = None
        if self.caption is not None and self.manifest.vocabulary is not None:
            self.vocabulary = Vocabulary.from_json(self.manifest.read_vocabulary(place))
            self.captions = Captions(self.vocabulary, wanted.max_words)
        self.identities: list[int] = []  # in the order of their classes
        self.identity_names: list[str] = []  # where they are a condition
        if wanted.identities or "identity" in wanted.modalities:
            other = train_split not in (None, split)
            numbered = Shards(place, train_split, cache, max_open) if other and train_split else self.shards
            self.identities = numbered.identities().tolist()
            if "identity" in wanted.modalities:
                self.identity_names = numbered.names(self.identities)
            numbered.close()
        self._classes = {identity: number for number, identity in enumerate(self.identities)}
        self.remote = self.shards.remote
        self._reading: dict[int, Window] = {}  # by lane
        # Of the tar, in its order, so that one read spans them and the image.
        self._conditions = ["speech"] if self.speech else []
        self._conditions += ["embeddings"] if isinstance(self.caption, Stored) else []

    @property
    def order(self) -> Order:
        """Of the first lane, which is all where there is one."""
        return self.lanes[0]

    def needs_tar(self, resolution: int) -> bool:
        """Whether samples at a resolution are read from the tars, and not from the small files alone."""
        return resolution > levels.LEVELS[-1] or bool(self._conditions)

    def __getitems__(self, requests: Sequence[Request]) -> Batch:
        return self.batch(requests)  # the name by which torch's loader asks for many at once

    def batch(self, requests: Sequence[Request | tuple[int, int]]) -> Batch:
        """The items of several positions and one resolution, and their noise."""
        positions = [request[0] for request in requests]
        return collate([self[request] for request in requests], draw_noise(self.seed, positions, self.wanted.wishes))

    def __getitem__(self, request: Request | tuple[int, int]) -> Item:
        position, resolution, lane, turn = Request(*request)
        window, index = self.lanes[lane].window(position if turn < 0 else turn)
        if self.remote and self._reading.get(lane) is not window:
            self._reading[lane] = window
            self.shards.keep({number for each in self._reading.values() for number in each.shards})
        damage: list[Damage] = []
        for attempt in range(MAX_SUBSTITUTES):
            place = window.place(index)
            try:
                image, members = self._read(place, resolution, True, self._conditions)
                choice = int(draw(self.seed, Stream.CAPTION, position).integers(2**32))
                condition = self._condition(place, members, choice, self._start(position, 0))
                break
            except shard_format.DamagedSample as error:
                damage.append(Damage(position, self.shards.listed[place.shard].name, place.row, str(error)))
                index = int(draw(self.seed, Stream.SUBSTITUTE, position, attempt).integers(len(window)))
        else:
            raise ValueError(
                f"{MAX_SUBSTITUTES} damaged samples in a row at position {position}, the last in {damage[-1].shard}:"
                f" {damage[-1].reason}; {self.remedy}"
            )
        absent = self._withheld(position, condition) | {name for name in condition if not len(condition[name])}
        mismatched, other_image, other_identity = self._mismatched(
            position, resolution, window, place, choice, condition
        )
        if "condition" in self.wanted.mismatched:
            # What only one of the two has would tell them apart. If nothing is left, there is no mismatched condition.
            lacking = {name for name in condition if not len(mismatched[name])}
            absent |= lacking if condition.keys() - absent - lacking else set()
        if self.wanted.flip and draw(self.seed, Stream.FLIP, position).random() < 0.5:
            image, other_image = image[:, :, ::-1], other_image[:, :, ::-1]
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
            damage=tuple(damage),
        )

    def _read(
        self, place: Place, resolution: int, with_image: bool, conditions: Sequence[str]
    ) -> tuple[np.ndarray, dict[str, bytes]]:
        """An image, from the smallest file that has it, and members of the tar. Raises DamagedSample."""
        image = self.shards.level(place, resolution) if with_image else NO_IMAGE
        if image is not None:
            return image, self.shards.members(place, conditions) if conditions else {}
        members = self.shards.members(place, ["image", *conditions])
        return self.shards.picture(members["image"], resolution), members

    def _start(self, position: int, part: int) -> float:
        return float(draw(self.seed, Stream.SPEECH, position, part).random()) if self.speech else 0.0

    def _condition(self, place: Place, members: dict[str, bytes], choice: int, start: float) -> Condition:
        """All that a sample has of what is wanted: the caption that a number chooses, the voice from `start` on."""
        condition: Condition = {}
        if self.captions is not None and self.captions.get(place) is None:
            self.captions.read(place, self.shards.captions(place))
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
        shares = self.wanted.dropout
        if not shares:
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
        image = NO_IMAGE
        if not self.wanted.mismatched:
            return condition, image, self.shards.identity(place)
        names = self._conditions if "condition" in self.wanted.mismatched else []
        for other, other_choice in self._nearest(position, window, place, choice, own):
            try:
                image, members = self._read(other, resolution, "image" in self.wanted.mismatched, names)
                if "condition" in self.wanted.mismatched:
                    condition = self._condition(other, members, other_choice, self._start(position, 1))
            except shard_format.DamagedSample:
                continue  # counted where it is read as a sample
            return condition, image, self.shards.identity(other)
        raise ValueError(
            f"{self.place}: no second identity within {self.order.window_shards} shards of position {position}:"
            " mismatched conditions and images need at least two; raise data.shuffle_window_shards, or shard with"
            " --identity"
        )

    def _nearest(
        self, position: int, window: Window, place: Place, choice: int, own: Condition
    ) -> Iterator[tuple[Place, int]]:
        """Samples of other identities that have what the sample has, the nearest in words first; the caption each.

        After the candidates, for where they are damaged, others; and at last those that do not have it all.
        """
        lacking: list[tuple[Place, int]] = []
        matching = self._matching(position, window, place, choice, own, lacking)
        candidates = sorted(islice(matching, self.wanted.mismatch_candidates), key=lambda each: -each[0])
        for _, other, other_choice in chain(candidates, matching):
            yield other, other_choice
        yield from lacking

    def _matching(
        self,
        position: int,
        window: Window,
        place: Place,
        choice: int,
        own: Condition,
        lacking: list[tuple[Place, int]],
    ) -> Iterator[tuple[float, Place, int]]:
        """Nearness, place and caption of samples that were drawn; those that lack something are put aside."""
        identity, num = self.shards.identity(place), self.wanted.mismatch_candidates
        has_voice = len(own.get("speech", ())) > 0
        own_caption = self._caption(place, choice)
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
            yield nearness, other, other_choice

    def _caption(self, place: Place, choice: int) -> Caption | None:
        """The caption of a sample that a number chooses; None where it has none, or is damaged."""
        if self.captions is None:
            return None
        captions = self.captions.get(place)
        if captions is None:
            try:
                captions = self.captions.read(place, self.shards.captions(place))
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
                _, members = self._read(place, 0, False, self._conditions)
                condition = self._condition(place, members, choice=0, start=0.0)
            except shard_format.DamagedSample:
                continue  # counted where it is read as a sample
            if not all(len(values) for values in condition.values()):
                continue
            label = self._label(place, condition)
            found.setdefault(label, Example(condition, label))
            if len(found) == num:
                break
        self.close()
        return list(found.values())

    def _label(self, place: Place, condition: Condition) -> str:
        voice = f"voice of {self.shards.key(place)}" if "speech" in condition else ""
        if self.caption is None:
            return voice or self.identity_names[int(condition["identity"][0])]
        texts = shard_format.captions(self.shards.captions(place))
        return f"{texts[0]} ({voice})" if voice else texts[0]

    def close(self) -> None:
        """Close the tars that this process has open."""
        self.shards.close()


def _check_held(manifest: Manifest, folder: str | Path, modalities: Mapping[str, Modality]) -> None:
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
    if not absent:
        return condition
    return {name: values[:0] if name in absent else values for name, values in condition.items()}
