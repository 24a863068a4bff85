"""One shard of a build: the share of the corpus that it is made of, and the making."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.ahead import ahead
from t2f_dist.shard.corpus import Entry, Refusal, lacking, refused
from t2f_dist.shard.embed import Embedder
from t2f_dist.shard.encode import Rejected, encode_image, encode_speech
from t2f_dist.shard.ledger import Ledger
from t2f_dist.shard.manifest import SplitName, shard_name
from t2f_dist.shard.outcome import Outcome
from t2f_dist.shard.writer import Sample, write_shard
from t2f_dist.storage import stage, url
from t2f_dist.storage.folder import Folder
from t2f_dist.storage.patience import Unreachable
from t2f_dist.text.sentence import SentenceEncoder
from t2f_dist.text.words import words

_SHARDS = 8  # of a split, if it is large enough for that many of at least _SMALL_SHARD samples
_SMALL_SHARD = 64


@dataclass(frozen=True)
class Task:
    """One shard: a function of the corpus, the recipe and its number, whoever writes it."""

    split: SplitName
    number: int
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        return shard_name(self.split, self.number).removesuffix(".tar")

    @property
    def num_images(self) -> int:
        return len(self.entries)


def tasks(
    splits: Mapping[SplitName, list[Entry]], samples_per_shard: int, first: Mapping[SplitName, int]
) -> Iterator[Task]:
    """The tasks of all splits, their numbers from `first` on."""
    for split, entries in splits.items():
        # Fewer samples a shard where that keeps several workers busy; how many there are plays no part.
        num_shards = max(-(-len(entries) // samples_per_shard), min(_SHARDS, -(-len(entries) // _SMALL_SHARD)))
        for number in range(num_shards):
            start, end = (len(entries) * i // num_shards for i in (number, number + 1))
            yield Task(split, first[split] + number, tuple(entries[start:end]))


@dataclass(frozen=True)
class Job:
    """What all tasks of a build have in common; small, so that it goes to every worker.

    Attributes:
        build: the fingerprint of the build, which stands in every record.
    """

    recipe: ShardRecipe
    embedder: Embedder | None
    build: str

    @property
    def is_relative(self) -> bool:
        """Whether some of its places are relative to the folder that the command was given in."""
        recipe = self.recipe
        places = [recipe.faces, recipe.captions, recipe.speech, recipe.embed, recipe.out, recipe.cub.embeddings]
        paths = [url.local(place) for place in places if place is not None]
        return any(path is not None and not path.is_absolute() for path in paths)

    def check(self) -> None:
        """On a machine that another has sent it to. Raises Unreachable where that does not see the same files."""
        ledger = Ledger(self.recipe.out)
        try:
            found = ledger.plan()
        except ValueError as error:
            raise Unreachable(str(error)) from None
        if found is None or found["fingerprint"] != self.build:
            what = "no" if found is None else "another"
            raise Unreachable(f"{what} build in {ledger.shown}, seen from here")

    def open(self, encoder: SentenceEncoder | None = None) -> Maker:
        """In the process that is to work; `encoder`, where it is loaded already. Raises as `Embedder.open`."""
        if self.embedder is not None and encoder is None:
            encoder = self.embedder.open()
        return Maker(self, encoder)


@dataclass(frozen=True)
class Maker:
    """Makes the shards of a job, one after the other."""

    job: Job
    encoder: SentenceEncoder | None

    def make(self, task: Task, advance: Callable[[], None]) -> None:
        """Write a shard, then its record; `advance()` is called after each image.

        Raises:
            ValueError: the corpus does not fit the recipe.
            OSError: the corpus cannot be read, or the shard not be written.
        """
        outcome = Outcome()
        out = Folder(self.job.recipe.out)
        samples = self._samples(task, outcome, advance)
        recipe = self.job.recipe
        with_speech, with_embeddings = recipe.speech is not None, self.job.embedder is not None
        if out.is_local:
            path = out.path / f"{task.name}.tar"
            outcome.shard = write_shard(path, samples, recipe.image.format, with_speech, with_embeddings)
        else:
            with stage.room() as room:
                path = room / f"{task.name}.tar"
                outcome.shard = write_shard(path, samples, recipe.image.format, with_speech, with_embeddings)
                if outcome.shard:
                    for name in (outcome.shard.name, outcome.shard.index, outcome.shard.small):
                        out.store(room / name, name)
        Ledger(recipe.out).record(task.name, self.job.build, outcome)

    def _samples(self, task: Task, outcome: Outcome, advance: Callable[[], None]) -> Iterator[Sample]:
        for entry in ahead(task.entries):
            sample = self._encode(entry, outcome.refusals)
            advance()
            if sample is None:
                continue
            outcome.stored["images"] += 1
            outcome.stored["captions"] += len(sample.captions)
            outcome.stored["voices"] += sample.speech is not None
            for caption in sample.captions:
                outcome.counts.update(words(caption))
            yield sample

    def _encode(self, entry: Entry, refusals: list[Refusal]) -> Sample | None:
        recipe, embedder = self.job.recipe, self.job.embedder
        try:
            image, levels, (width, height) = encode_image(entry.image, recipe.image)
        except Rejected as error:
            refusals += refused(entry, str(error))
            return None
        speech, speech_samples = None, 0
        if entry.voice:
            try:
                speech, speech_samples = encode_speech(entry.voice.content, recipe.audio)
            except Rejected as error:
                refusals.append(Refusal("voices", "rejected", str(error), entry.path, entry.voice.source))
                entry = replace(entry, voice=None)
        reason = lacking(entry, recipe)
        if reason:
            refusals += refused(entry, reason)
            return None
        try:
            embeddings = embedder.embed(entry, self.encoder) if embedder else None
        except Rejected as error:
            refusals += refused(entry, str(error))
            return None
        meta = {
            # Always the same keys and types: readers infer columns from the first samples.
            "identity": entry.identity,
            "source": entry.path,
            "source_width": width,
            "source_height": height,
            "num_captions": len(entry.captions),
            "speech_source": entry.voice.source if entry.voice else "",
            "speech_samples": speech_samples,
        }
        return Sample(
            entry.key, entry.identity, image, levels, entry.captions, meta, speech, speech_samples, embeddings
        )
