"""A recipe into a directory of shards: plan, encode in parallel, one shard a task, manifest last."""

import json
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.corpus import Entry, Plan, Refusal, lacking, main_reason, plan, refused
from t2f_dist.shard.embed import Embedder
from t2f_dist.shard.encode import Rejected, encode_image, encode_speech
from t2f_dist.shard.manifest import (
    MANIFEST,
    REJECTED,
    SPLITS,
    VOCABULARY,
    Kind,
    Manifest,
    RejectedFile,
    Shard,
    Split,
    SplitName,
    Totals,
    VocabularyFile,
    digest,
    shard_name,
)
from t2f_dist.shard.writer import Sample, write_shard
from t2f_dist.storage.folder import write_file
from t2f_dist.text.sentence import SentenceEncoder
from t2f_dist.text.vocabulary import Vocabulary
from t2f_dist.text.words import words

_OURS = re.compile(
    r"((train|validation|test)-\d{6,}\.(tar|small|index\.npy)|manifest\.json|vocabulary\.json|rejected\.jsonl)(\.\d+\.tmp)?"
)

_SHARDS = 8  # of a split, if it is large enough for that many of at least _SMALL_SHARD samples
_SMALL_SHARD = 64


@dataclass(frozen=True)
class Task:
    """One shard: a function of the corpus, the recipe and its number, whoever writes it."""

    split: SplitName
    number: int
    entries: tuple[Entry, ...]


@dataclass
class Outcome:
    shard: Shard | None = None
    refusals: list[Refusal] = field(default_factory=list)
    stored: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)  # of words


def build(recipe: ShardRecipe, workers: int, overwrite: bool = False, progress: bool = True) -> Manifest:
    """Write the shards of a recipe to `recipe.out`. The bytes do not depend on `workers`.

    A build that was killed is cleaned away and begun again; a finished one is left alone unless `overwrite`.

    Raises:
        FileNotFoundError: a path of the recipe does not exist.
        FileExistsError: `recipe.out` holds finished shards, or files that are not ours.
        ValueError: a source is not of its layout, embeddings differ in size, or no sample is usable.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least 1")
    out = Path(recipe.out)
    _check_free(out, overwrite)
    corpus = plan(recipe)
    embedder, encoder = _embedder(corpus, recipe, progress)
    _clean(out)
    tasks = list(_tasks(corpus, recipe.samples_per_shard))
    outcomes = _run(tasks, recipe, embedder, encoder, min(workers, len(tasks)), progress)
    refusals = corpus.refusals + [refusal for outcome in outcomes for refusal in outcome.refusals]
    rows = "".join(json.dumps(refusal.row(), ensure_ascii=False) + "\n" for refusal in refusals)
    rejected = rows.encode("utf-8", "replace")
    write_file(out / REJECTED, rejected)
    splits: dict[SplitName, list[Shard]] = {
        split: [outcome.shard for task, outcome in zip(tasks, outcomes) if task.split == split and outcome.shard]
        for split in SPLITS
    }
    if not splits["train"]:
        raise ValueError(f"no usable sample in train{main_reason(refusals)}; see {out / REJECTED}")
    manifest = Manifest(
        # without `out`: the same shards elsewhere are the same shards
        recipe=recipe.model_dump(mode="json", exclude={"out"}),
        image_resolution=recipe.image.resolution,
        image_format=recipe.image.format,
        sample_rate_hz=recipe.audio.sample_rate_hz if recipe.speech else None,
        vocabulary=_write_vocabulary(out, recipe, tasks, outcomes),
        embedding=embedder.record if embedder else None,
        rejected=RejectedFile(file=REJECTED, sha256=digest(rejected)),
        splits={
            split: Split(num_samples=sum(shard.num_samples for shard in shards), shards=tuple(shards))
            for split, shards in splits.items()
        },
        totals=_totals(corpus, refusals, outcomes),
    )
    manifest.save(out)
    return manifest


def _embedder(corpus: Plan, recipe: ShardRecipe, progress: bool) -> tuple[Embedder | None, SentenceEncoder | None]:
    """Whose embeddings the shards get, and the encoder of this process. Those of a model win over the corpus's own."""
    if recipe.embed is None:
        return Embedder.of_corpus(entry for entries in corpus.splits.values() for entry in entries), None
    if progress:
        print(f"loading {recipe.embed}", file=sys.stderr, flush=True)  # for some seconds
    encoder = SentenceEncoder(recipe.embed)
    return Embedder.of_model(encoder), encoder


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; --out is a folder")
    foreign = next((name for name in sorted(os.listdir(out)) if not _OURS.fullmatch(name)), None)
    if foreign:
        raise FileExistsError(f"{out} holds {foreign}, which is no shard; choose an empty or a new folder")
    if (out / MANIFEST).exists() and not overwrite:
        raise FileExistsError(f"{out} holds finished shards; --overwrite replaces them")


def _clean(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    # The manifest first: without it nothing here counts as finished.
    for name in sorted(os.listdir(out), key=lambda name: name != MANIFEST):
        (out / name).unlink()


def _tasks(corpus: Plan, samples_per_shard: int) -> Iterator[Task]:
    for split, entries in corpus.splits.items():
        # Fewer samples a shard where that keeps several workers busy; how many there are plays no part.
        num_shards = max(-(-len(entries) // samples_per_shard), min(_SHARDS, -(-len(entries) // _SMALL_SHARD)))
        for number in range(num_shards):
            start, end = (len(entries) * i // num_shards for i in (number, number + 1))
            yield Task(split, number, tuple(entries[start:end]))


def _run(
    tasks: list[Task],
    recipe: ShardRecipe,
    embedder: Embedder | None,
    encoder: SentenceEncoder | None,
    workers: int,
    progress: bool,
) -> list[Outcome]:
    """The outcomes in the order of the tasks."""
    total = sum(len(task.entries) for task in tasks)
    with tqdm(total=total, unit="image", desc="shard", disable=not progress, mininterval=0.5) as bar:
        if workers == 1:
            return [write(task, recipe, embedder, encoder, lambda: bar.update()) for task in tasks]
        # spawn, not fork: the same on every platform, and safe whatever threads the caller has
        context = multiprocessing.get_context("spawn")
        done = context.Value("Q", 0)
        with ProcessPoolExecutor(workers, context, _start_worker, (done,)) as pool:
            futures = [pool.submit(_write_in_worker, task, recipe, embedder) for task in tasks]
            try:
                _watch(futures, done, bar)
                return [future.result() for future in futures]
            except BrokenProcessPool:
                raise ValueError(
                    "a worker process was killed, most likely for want of memory; use fewer --workers"
                ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _watch(futures: list[Future], done, bar: tqdm) -> None:
    pending = set(futures)
    while pending:
        finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        bar.update(done.value - bar.n)
        for future in finished:
            future.result()


# Of a worker process:
_done: Any = None  # the shared count of images
_encoder: SentenceEncoder | None = None  # loaded once


def _start_worker(done) -> None:
    global _done
    _done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and stops the pool
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A pool's workers wait for tasks for ever if the parent is killed.
    threading.Thread(target=leave_with_parent, daemon=True).start()


def _write_in_worker(task: Task, recipe: ShardRecipe, embedder: Embedder | None) -> Outcome:
    global _encoder
    if embedder and _encoder is None:
        _encoder = embedder.open()

    def count() -> None:
        with _done.get_lock():
            _done.value += 1

    return write(task, recipe, embedder, _encoder, count)


def write(
    task: Task, recipe: ShardRecipe, embedder: Embedder | None, encoder: SentenceEncoder | None, advance
) -> Outcome:
    """Encode the entries of a shard and write it; `advance()` is called after each image."""
    outcome = Outcome()
    path = Path(recipe.out) / shard_name(task.split, task.number)

    def samples() -> Iterator[Sample]:
        for entry in task.entries:
            sample = _encode(entry, recipe, embedder, encoder, outcome.refusals)
            advance()
            if sample is None:
                continue
            outcome.stored.update(images=1, captions=len(sample.captions), voices=int(sample.speech is not None))
            for caption in sample.captions:
                outcome.counts.update(words(caption))
            yield sample

    with_speech, with_embeddings = recipe.speech is not None, embedder is not None
    outcome.shard = write_shard(path, samples(), recipe.image.format, with_speech, with_embeddings)
    return outcome


def _encode(
    entry: Entry,
    recipe: ShardRecipe,
    embedder: Embedder | None,
    encoder: SentenceEncoder | None,
    refusals: list[Refusal],
) -> Sample | None:
    try:
        image, levels, (width, height) = encode_image(entry.image, recipe.image)
    except Rejected as error:
        refusals += refused(entry, str(error))
        return None
    speech, speech_samples = None, 0
    if entry.voice:
        try:
            speech, speech_samples = encode_speech(entry.voice.path, recipe.audio)
        except Rejected as error:
            refusals.append(Refusal("voices", "rejected", str(error), entry.path, entry.voice.source))
            entry = replace(entry, voice=None)
    reason = lacking(entry, recipe)
    if reason:
        refusals += refused(entry, reason)
        return None
    try:
        embeddings = embedder.embed(entry, encoder) if embedder else None
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
    return Sample(entry.key, entry.identity, image, levels, entry.captions, meta, speech, speech_samples, embeddings)


def _write_vocabulary(
    out: Path, recipe: ShardRecipe, tasks: list[Task], outcomes: list[Outcome]
) -> VocabularyFile | None:
    """From the captions of train alone: what a model has not seen in training, it does not know."""
    if recipe.captions is None:
        return None
    counts: Counter[str] = Counter()
    for task, outcome in zip(tasks, outcomes):
        if task.split == "train":
            counts.update(outcome.counts)
    vocabulary = Vocabulary.from_counts(counts, recipe.text.min_count, recipe.text.max_words)
    content = vocabulary.to_json().encode()
    write_file(out / VOCABULARY, content)
    return VocabularyFile(file=VOCABULARY, sha256=digest(content), num_words=len(vocabulary.words))


def _totals(corpus: Plan, refusals: list[Refusal], outcomes: list[Outcome]) -> dict[Kind, Totals]:
    refused_counts = Counter((refusal.kind, refusal.status) for refusal in refusals)
    stored = sum((outcome.stored for outcome in outcomes), Counter())
    return {
        kind: Totals(
            found=found,
            stored=stored[kind],
            rejected=refused_counts[kind, "rejected"],
            unmatched=refused_counts[kind, "unmatched"],
        )
        for kind, found in corpus.found.items()
    }
