"""A position and a resolution -> an item: a sample, wherever it is read from, and all that is drawn for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
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
from t2f_dist.data.order import Place
from t2f_dist.data.positions import Stream, draw
from t2f_dist.data.source import Ahead, Lane, Source
from t2f_dist.data.speech import listen
from t2f_dist.shard import format as shard_format
from t2f_dist.storage import url
from t2f_dist.text.vocabulary import Vocabulary

MAX_SUBSTITUTES = 16  # damaged samples in a row before the data is given up
MAX_IDENTITY_TRIES = 64  # draws in search of another identity
NO_IMAGE = np.zeros((3, 0, 0), np.uint8)
NOBODY = np.zeros(0, np.uint64)

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


class Samples(Dataset[Item], ABC):
    """Access by `Request`, or (position, resolution).

    Args:
        place: of the data, for messages.
        source: of samples.
        lanes: what stands at each turn.
        seed: of the run; with the position it decides everything drawn.
        wanted: what an item holds.
        vocabulary: of captions, where they are wanted as words.
        identities: uint64, sorted, which is the order of their classes.
        identity_names: of these, where they are a condition.

    Attributes:
        remedy: what is told where many samples are damaged.
        note: what a run that resumes is told of its data; empty for nothing.
        remote: shards are fetched into a cache.
    """

    remedy = ""
    note = ""
    remote = False

    def __init__(
        self,
        place: str | Path,
        source: Source,
        lanes: Sequence[Lane],
        seed: int,
        wanted: Wanted,
        vocabulary: Vocabulary | None,
        identities: np.ndarray = NOBODY,
        identity_names: Sequence[str] = (),
    ):
        self.place = place
        self.source = source
        self.manifest = source.manifest
        self.lanes = lanes
        self.seed = seed
        self.wanted = wanted
        self.caption = wanted.modalities.get("caption")
        self.speech = wanted.modalities.get("speech")
        self.vocabulary = vocabulary
        compares = wanted.mismatch_candidates > 1 and bool(wanted.mismatched)
        self.captions = Captions(vocabulary, wanted.max_words, keep=compares) if vocabulary else None
        self.identities = array("Q", identities.tobytes())  # millions, as they may be, in eight bytes each
        self.identity_names = list(identity_names)
        self._classes = Classes(self.identities)
        # Of the tar, in its order, so that one read spans them and the image.
        self._conditions = ["speech"] if self.speech else []
        self._conditions += ["embeddings"] if isinstance(self.caption, Stored) else []

    def __getitems__(self, requests: Sequence[Request]) -> Batch:
        return self.batch(requests)  # the name by which torch's loader asks for many at once

    def batch(self, requests: Sequence[Request | tuple[int, int]]) -> Batch:
        """The items of several positions and one resolution, and their noise."""
        positions = [request[0] for request in requests]
        return collate([self[request] for request in requests], draw_noise(self.seed, positions, self.wanted.wishes))

    def __getitem__(self, request: Request | tuple[int, int]) -> Item:
        position, resolution, lane, turn = Request(*request)
        window, index = self.lanes[lane].window(position if turn < 0 else turn)
        self._enter(lane, window)
        damage: list[Damage] = []
        for attempt in range(MAX_SUBSTITUTES):
            place = window.place(index)
            try:
                image, members = self._read(place, resolution, True, self._conditions)
                choice = int(draw(self.seed, Stream.CAPTION, position).integers(2**32))
                condition = self._condition(place, members, choice, self._start(position, 0))
                break
            except shard_format.DamagedSample as error:
                shard = url.shown(self.source.listed[place.shard].name)
                damage.append(Damage(position, shard, place.row, str(error)))
                index = int(draw(self.seed, Stream.SUBSTITUTE, position, attempt).integers(len(window)))
        else:
            raise ValueError(
                f"{MAX_SUBSTITUTES} damaged samples in a row at position {position}, the last in {damage[-1].shard}:"
                f" {damage[-1].reason}; {self.remedy}"
            )
        absent = self._withheld(position, condition) | {name for name in condition if not len(condition[name])}
        mismatched, other_image, other = self._mismatched(position, resolution, window, place, choice, condition)
        if "condition" in self.wanted.mismatched:
            # What only one of the two has would tell them apart. If nothing is left, there is no mismatched condition.
            lacking = {name for name in condition if not len(mismatched[name])}
            absent |= lacking if condition.keys() - absent - lacking else set()
        if self.wanted.flip and draw(self.seed, Stream.FLIP, position).random() < 0.5:
            image, other_image = image[:, :, ::-1], other_image[:, :, ::-1]
        identity = self.source.identity(place)
        return Item(
            position=position,
            image=image,
            condition=_without(condition, absent),
            mismatched=_without(mismatched, absent),
            mismatched_image=other_image,
            mismatched_identity=self.source.identity(other),
            identity=identity,
            identity_class=self._classes.get(identity, -1) if self.identities else -1,
            damage=tuple(damage),
            place=place,
            mismatched_place=other,
        )

    def name_of(self, place: Place) -> str:
        """A sample as people find it: by key and shard; by its number there where this process cannot read the key."""
        shard = url.shown(self.source.listed[place.shard].name)
        try:
            return f"{self.source.key(place)} in {shard}"
        except (KeyError, ValueError, OSError):
            return f"sample {place.row} of {shard}"

    def _read(
        self, place: Place, resolution: int, with_image: bool, conditions: Sequence[str]
    ) -> tuple[np.ndarray, dict[str, bytes]]:
        """An image, from the smallest file that has it, and members of the tar. Raises DamagedSample."""
        image = self.source.level(place, resolution) if with_image else NO_IMAGE
        if image is not None:
            return image, self.source.members(place, conditions) if conditions else {}
        members = self.source.members(place, ["image", *conditions])
        return self.source.picture(members["image"], resolution), members

    def _start(self, position: int, part: int) -> float:
        return float(draw(self.seed, Stream.SPEECH, position, part).random()) if self.speech else 0.0

    def _condition(self, place: Place, members: dict[str, bytes], choice: int, start: float) -> Condition:
        """All that a sample has of what is wanted: the caption that a number chooses, the voice from `start` on."""
        condition: Condition = {}
        if isinstance(self.caption, Lstm):
            captions = self._captions(place)
            condition["caption"] = captions[choice % len(captions)].tokens if captions else np.zeros(0, np.int64)
        elif self.caption is not None:
            rows = shard_format.embeddings(members["embeddings"])
            which = choice % max(1, len(rows))
            condition["caption"] = rows[which : which + 1]
        if isinstance(self.speech, LogMel | Waveform):
            content = members["speech"]
            condition["speech"] = listen(content, self.speech.seconds, start) if content else np.zeros(0, np.int16)
        if "identity" in self.wanted.modalities:
            number = self._classes.get(self.source.identity(place))
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
        self, position: int, resolution: int, window: Ahead, place: Place, choice: int, own: Condition
    ) -> tuple[Condition, np.ndarray, Place]:
        """The condition and the image of a sample of another identity, and which; empty where they are not wanted."""
        condition: Condition = {name: values[:0] for name, values in own.items()}
        image = NO_IMAGE
        if not self.wanted.mismatched:
            return condition, image, place
        names = self._conditions if "condition" in self.wanted.mismatched else []
        for other, other_choice in self._nearest(position, window, place, choice, own):
            try:
                image, members = self._read(other, resolution, "image" in self.wanted.mismatched, names)
                if "condition" in self.wanted.mismatched:
                    condition = self._condition(other, members, other_choice, self._start(position, 1))
            except shard_format.DamagedSample:
                continue  # counted where it is read as a sample
            return condition, image, other
        raise ValueError(self._one_identity(position, window))

    def _nearest(
        self, position: int, window: Ahead, place: Place, choice: int, own: Condition
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
        window: Ahead,
        place: Place,
        choice: int,
        own: Condition,
        lacking: list[tuple[Place, int]],
    ) -> Iterator[tuple[float, Place, int]]:
        """Nearness, place and caption of samples that were drawn; those that lack something are put aside."""
        identity, num = self.source.identity(place), self.wanted.mismatch_candidates
        has_voice = len(own.get("speech", ())) > 0
        own_caption = self._caption(place, choice)
        draws = draw(self.seed, Stream.MISMATCH, position).integers(2**32, size=(num + MAX_IDENTITY_TRIES, 2))
        num_places = len(window)
        for which, other_choice in draws.tolist():
            other = window.place(which % num_places)
            shard = self.source[other.shard]
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
                nearness = similarity(own_caption, caption) if num > 1 else 0.0
            yield nearness, other, other_choice

    def _captions(self, place: Place) -> list[Caption]:
        """Those of a sample. Raises DamagedSample."""
        assert self.captions is not None
        captions = self.captions.get(place)
        return self.captions.read(place, self.source.captions(place)) if captions is None else captions

    def _caption(self, place: Place, choice: int) -> Caption | None:
        """The caption of a sample that a number chooses; None where it has none, or is damaged."""
        if self.captions is None:
            return None
        try:
            captions = self._captions(place)
        except shard_format.DamagedSample:
            return None  # counted where it is read as a sample
        return captions[choice % len(captions)] if captions else None

    def _label(self, place: Place, condition: Condition) -> str:
        voice = f"voice of {self.source.key(place)}" if "speech" in condition else ""
        if self.caption is None:
            return voice or self.identity_names[int(condition["identity"][0])]
        texts = shard_format.captions(self.source.captions(place))
        return f"{texts[0]} ({voice})" if voice else texts[0]

    def _enter(self, lane: int, window: Ahead) -> None:
        """Told before each sample, among which it stands."""

    @abstractmethod
    def _one_identity(self, position: int, window: Ahead) -> str:
        """The message where a position has no sample of another identity to be mismatched with."""

    @abstractmethod
    def examples(self, num: int) -> list[Example]:
        """The first samples that have all that is wanted; no two of the same label.

        Fewer than `num`, where they are rare among the first few thousand.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the files that this process has open."""


class Classes(Mapping[int, int]):
    """Identity -> its number among those, which are sorted."""

    def __init__(self, identities: Sequence[int]):
        self.identities = identities

    def __getitem__(self, identity: int) -> int:
        number = bisect_left(self.identities, identity)
        if number == len(self.identities) or self.identities[number] != identity:
            raise KeyError(identity)
        return number

    def __iter__(self) -> Iterator[int]:
        return iter(self.identities)

    def __len__(self) -> int:
        return len(self.identities)


def _without(condition: Condition, absent: set[str]) -> Condition:
    if not absent:
        return condition
    return {name: values[:0] if name in absent else values for name, values in condition.items()}
