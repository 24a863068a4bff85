"""Samples of tars that nobody has indexed: `data.shards` names tars, not a folder with a manifest.

What is drawn for a position (noise, flip, caption ...) is the same function of seed and position as with an index;
which sample stands there depends on the numbers of ranks and loader processes, and a run that resumes begins another
order.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from torch.utils.data import get_worker_info

from t2f_dist.config.condition import Lstm
from t2f_dist.config.recipe import ImageRecipe
from t2f_dist.config.schema import Config
from t2f_dist.data.dataset import MAX_SUBSTITUTES, Example, Samples, Wanted
from t2f_dist.data.image import decode_foreign
from t2f_dist.data.indexed import MAX_LOOKED_AT
from t2f_dist.data.order import Place
from t2f_dist.data.source import Ahead
from t2f_dist.data.tars import SAMPLE_BYTES_MAX, Share, Streamed, endless, in_order
from t2f_dist.shard.format import DamagedSample
from t2f_dist.shard.manifest import REJECTED, VOCABULARY_BYTES_MAX, Manifest, RejectedFile, digest
from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder
from t2f_dist.text.vocabulary import Vocabulary

AHEAD = 64  # samples that are read ahead: among them a mismatched one is found, and one in place of a damaged one
QUEUE_BYTES_MAX = 1 << 27  # of these; with what waits to be shuffled, 512 MB of a loader process
LOOKED_AT = 256  # samples, for the rate of voices
VOICES_LOOKED_AT = 16  # among them
RATES = range(1_000, 192_001)  # Hz, of which a manifest knows
REMEDY = "t2f-dist index makes shards of these tars without rewriting them"

NOTE = (
    "data.shards names tars without an index: which sample stands at a position is not what it would have been without"
    " the break (noise, flips and captions' draws are); with an index, made by t2f-dist index, it is"
)


def is_stream(place: str) -> bool:
    """Whether `data.shards` names tars to be streamed."""
    return place.endswith(".tar") and not Path(place).is_dir()


def check(config: Config) -> None:
    """Raise ValueError, with one line that says what to do, for what needs an index, or belongs to tars alone."""
    data = config.data
    if not is_stream(data.shards):
        if data.vocabulary is not None:
            raise ValueError(
                f"data.vocabulary {data.vocabulary} is for tars that are streamed; {data.shards} has its own: leave it"
                " out"
            )
        return
    caption = config.condition.caption
    refused = {
        "condition.identity": config.condition.identity is not None,
        "loss.identity": config.loss.identity.used,
        "condition.caption.kind stored": caption is not None and not isinstance(caption, Lstm),
        f"data.split {data.split}": data.split != "train",
        f"data.lanes {data.lanes}": data.lanes != 1,
        f"data.cache_dir {data.cache_dir}": data.cache_dir is not None,
    }
    for what, wanted in refused.items():
        if wanted:
            raise ValueError(f"{what} needs an index, and {url.shown(data.shards)} is streamed without one: {REMEDY}")
    if caption is not None and data.vocabulary is None:
        raise ValueError(
            f"{url.shown(data.shards)} brings no list of words: give data.vocabulary, such as the vocabulary.json of"
            f" shards; or {REMEDY}"
        )
    if caption is None and data.vocabulary is not None:
        raise ValueError(f"data.vocabulary {data.vocabulary} without condition.caption has no use: leave it out")


class StreamManifest(Manifest):
    """What is known of tars without a manifest."""

    names: tuple[str, ...]  # of the tars
    words_sha256: str  # of the vocabulary; empty for none

    @property
    def fingerprint(self) -> str:
        """The same tars by name, and the same words; their bytes nobody has looked at."""
        return digest(json.dumps(["stream", self.names, self.words_sha256]).encode())


class StreamedSamples(Samples):
    """As `Samples`, one after the other: a request for a position gets the next sample of this process.

    Args:
        pattern: a path or URL of tars, with braces.
        seed: of the run.
        wanted: what an item holds.
        resolution: of the largest images; smaller pictures are damaged samples.
        vocabulary: the place of its file, if captions are wanted.
        buffer_samples: that wait in each loader process to be shuffled.

    Raises:
        FileNotFoundError, ValueError: a scheme that is not allowed, no such vocabulary, no voice where one is wanted.
    """

    note = NOTE

    def __init__(
        self, pattern: str, seed: int, wanted: Wanted, resolution: int, vocabulary: str | None, buffer_samples: int
    ):
        shown = url.shown(pattern)
        self.tars = [url.check(place) for place in url.expand(pattern)]
        words = read_vocabulary(vocabulary) if vocabulary is not None else None
        manifest = StreamManifest(
            recipe={"image": ImageRecipe(resolution=resolution).model_dump(mode="json")},
            image_resolution=resolution,
            image_format="any",
            squared=False,
            sample_rate_hz=_first_rate(self.tars, shown) if "speech" in wanted.modalities else None,
            vocabulary=None,
            rejected=RejectedFile(file=REJECTED, sha256=digest(b"")),
            splits={},
            totals={},
            names=tuple(url.name(place) for place in self.tars),
            words_sha256=digest(words.to_json().encode()) if words else "",
        )
        self._in_hand = InHand(self.tars, manifest)
        self._queue = Queue(self._in_hand, max(AHEAD, 4 * wanted.mismatch_candidates))
        self._buffer_samples = buffer_samples
        self._share = Share(seed, 0, 0, 1, 0, 1)
        super().__init__(shown, self._in_hand, [self._queue], seed, wanted, words)
        self.remedy = f"look at all of them with `t2f-dist index {shown}`"

    def begin(
        self, steps: Iterable[tuple[int, int, int]], rank: int, world_size: int, num_workers: int
    ) -> tuple[Iterator[tuple[int, int, int]], int]:
        """To be called before the first request: whose samples these are. -> the steps, and how many loader processes.

        Raises ValueError where there are fewer tars than ranks.
        """
        if len(self.tars) < world_size:
            raise ValueError(
                f"{self.place} names {len(self.tars)} tars for {world_size} ranks, and each needs one of its own:"
                f" launch fewer ranks; or {REMEDY}"
            )
        steps = iter(steps)
        first = next(steps, None)
        num_workers = min(num_workers, len(self.tars) // world_size)
        start = first[0] if first else 0
        self._share = Share(self.seed, start, rank, world_size, 0, max(1, num_workers))
        self._queue.close()
        return itertools.chain([] if first is None else [first], steps), num_workers

    def _begun(self) -> None:
        """Open the stream of this process, of which nothing is shared with the one that it was forked from."""
        if not self._queue.is_open:
            worker = get_worker_info()
            share = self._share._replace(worker=worker.id if worker else 0)
            self._queue.open(endless(self.tars, share, self.speech is not None, self._buffer_samples))

    def __getitem__(self, request):
        self._begun()
        return super().__getitem__(request)

    def _one_identity(self, position: int, window: Ahead) -> str:
        return (
            f"{self.place}: no second identity among {len(window)} samples in a row at position {position}:"
            f" mismatched conditions and images need at least two; {REMEDY}"
        )

    def examples(self, num: int) -> list[Example]:
        """The first samples of the tars that have all that is wanted, as `Samples.examples`."""
        found: dict[str, Example] = {}
        for sample in itertools.islice(in_order(self.tars, self.speech is not None), MAX_LOOKED_AT):
            place = self._in_hand.add(sample)
            try:
                condition = self._condition(place, self._in_hand.members(place, self._conditions), choice=0, start=0.0)
                if all(len(values) for values in condition.values()):
                    label = self._label(place, condition)
                    found.setdefault(label, Example(condition, label))
            except DamagedSample:
                continue  # counted where it is read as a sample
            finally:
                self._in_hand.remove(place)
            if len(found) == num:
                break
        return list(found.values())

    def close(self) -> None:
        """Close the tar that this process has open."""
        self._queue.close()


class InHand:
    """The samples in hand, by place: what `Samples` asks of shards."""

    def __init__(self, tars: Sequence[str], manifest: StreamManifest):
        self.manifest = manifest
        self.listed = [Listed(url.shown(place)) for place in tars]
        self.recipe = ImageRecipe(resolution=manifest.image_resolution)
        self._noted = [Noted({}, {}) for _ in tars]
        self._samples: dict[Place, Streamed] = {}
        self._times: dict[Place, int] = {}

    def add(self, sample: Streamed) -> Place:
        """A place is in hand until it was removed as often as it was added."""
        place = Place(sample.tar, sample.row)
        self._samples[place] = sample
        self._noted[place.shard].identities[place.row] = sample.identity
        self._noted[place.shard].voiced[place.row] = bool(sample.speech)
        self._times[place] = self._times.get(place, 0) + 1
        return place

    def remove(self, place: Place) -> None:
        self._times[place] -= 1
        if not self._times[place]:
            del self._times[place], self._samples[place]
            for noted in self._noted[place.shard]:
                del noted[place.row]

    def __getitem__(self, number: int) -> Noted:
        return self._noted[number]

    def sample(self, place: Place) -> Streamed:
        """Raises DamagedSample."""
        sample = self._samples[place]
        if sample.damage:
            raise DamagedSample(sample.damage)
        return sample

    def identity(self, place: Place) -> int:
        return self._samples[place].identity

    def has_voice(self, place: Place) -> bool:
        return bool(self._samples[place].speech)

    def level(self, place: Place, resolution: int) -> None:
        """No sample of a stream has small levels."""

    def members(self, place: Place, names: Sequence[str]) -> dict[str, bytes]:
        """Raises DamagedSample, also where a voice is of another rate than the first ones."""
        sample = self.sample(place)
        if "speech" in names and sample.speech:
            rate = _rate_of(sample.speech)
            if rate != self.manifest.sample_rate_hz:
                raise DamagedSample(f"speech: {rate} Hz, where the first voices have {self.manifest.sample_rate_hz}")
        return {name: sample.image if name == "image" else sample.speech for name in names}

    def picture(self, content: bytes, resolution: int) -> np.ndarray:
        """uint8 [3, R, R]. Raises DamagedSample."""
        return decode_foreign(content, resolution, self.recipe)

    def captions(self, place: Place) -> bytes:
        """Raises DamagedSample."""
        return self.sample(place).captions

    def key(self, place: Place) -> str:
        return self._samples[place].key


class Listed(NamedTuple):
    """A tar as it is named to people."""

    name: str


class Noted(NamedTuple):
    """Of the samples in hand of one tar, by row."""

    identities: dict[int, int]
    voiced: dict[int, bool]


class Queue:
    """The samples to come, of which the first is the next: what `Samples` asks of an order.

    Args:
        length: of the queue; less where samples are so large that they would be more than QUEUE_BYTES_MAX.

    Attributes:
        num_bytes: of the samples in it.
    """

    def __init__(self, in_hand: InHand, length: int):
        self.in_hand = in_hand
        self.length = max(length, MAX_SUBSTITUTES)
        self._places: deque[Place] = deque()
        self._sizes: deque[int] = deque()
        self.num_bytes = 0
        self._samples: Iterator[Streamed] | None = None
        self._process = -1

    @property
    def is_open(self) -> bool:
        """In this process."""
        return self._samples is not None and self._process == os.getpid()

    def open(self, samples: Iterator[Streamed]) -> None:
        self.close()
        self._samples, self._process = samples, os.getpid()
        self._fill()

    def _fill(self) -> None:
        """At least two samples, so that one has another to be mismatched with."""
        assert self._samples is not None
        # While there is room for the largest that may come.
        while len(self) < 2 or (len(self) < self.length and self.num_bytes <= QUEUE_BYTES_MAX - SAMPLE_BYTES_MAX):
            sample = next(self._samples)
            self._places.append(self.in_hand.add(sample))
            self._sizes.append(sample.num_bytes)
            self.num_bytes += sample.num_bytes

    def window(self, position: int) -> tuple[Ahead, int]:
        """Those ahead, once one step further: the next stands first."""
        self.in_hand.remove(self._places.popleft())
        self.num_bytes -= self._sizes.popleft()
        self._fill()
        return self, 0

    def __len__(self) -> int:
        return len(self._places)

    def place(self, index: int) -> Place:
        return self._places[index]

    def close(self) -> None:
        for place in self._places:
            self.in_hand.remove(place)
        self._places.clear()
        self._sizes.clear()
        self.num_bytes = 0
        self._samples = None


def read_vocabulary(place: str) -> Vocabulary:
    """From a file, here or at a URL. Raises FileNotFoundError, ValueError."""
    folder, name = url.split(place)
    size = Folder(folder).size(name)
    if size is None:
        raise FileNotFoundError(f"data.vocabulary {url.shown(place)}: no such file")
    if size > VOCABULARY_BYTES_MAX:
        raise ValueError(f"data.vocabulary {url.shown(place)} has {size} bytes: not a vocabulary")
    try:
        return Vocabulary.from_json(Folder(folder).read(name).decode())
    except ValueError as error:
        raise ValueError(f"data.vocabulary {url.shown(place)}: {error}") from None


def _first_rate(tars: Sequence[str], shown: str) -> int:
    """Hz, which most of the first voices have. Raises ValueError where there is none."""
    rates: Counter[int] = Counter()
    damage = ""
    for sample in itertools.islice(in_order(tars, True), LOOKED_AT):
        try:
            if sample.damage:
                raise DamagedSample(sample.damage)
            if sample.speech:
                rates[_rate_of(sample.speech)] += 1
        except DamagedSample as error:  # counted where it is read as a sample
            damage = damage or f"; {url.name(tars[sample.tar])}, sample {sample.row}: {error}"
        if rates.total() == VOICES_LOOKED_AT:
            break
    if not rates:
        raise ValueError(
            f"{shown}: none of the first {LOOKED_AT} samples has a voice (flac, wav, ogg, mp3): set condition.speech"
            f" null{damage}"
        )
    return rates.most_common(1)[0][0]


def _rate_of(speech: bytes) -> int:
    """Hz. Raises DamagedSample."""
    try:
        rate = soundfile.info(io.BytesIO(speech)).samplerate
    except (soundfile.SoundFileError, RuntimeError) as error:
        # The whole text names an object by its address.
        reason = error.error_string if isinstance(error, soundfile.LibsndfileError) else error
        raise DamagedSample(f"speech: cannot be decoded ({reason})") from None
    if rate not in RATES:
        raise DamagedSample(f"speech: {rate} Hz")
    return rate
