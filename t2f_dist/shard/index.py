"""An index beside tars that somebody else wrote, so that training reads them where they are and as they are."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from t2f_dist.config.index import WORDS_MAX, IndexRecipe
from t2f_dist.shard import engine
from t2f_dist.shard.foreign import FOLDER, UNNAMED, ForeignJob, ForeignTar, Record, shard_place
from t2f_dist.shard.manifest import (
    MANIFEST,
    REJECTED,
    SPLITS,
    VOCABULARY,
    VOCABULARY_BYTES_MAX,
    Kind,
    Manifest,
    RejectedFile,
    Shard,
    Split,
    SplitName,
    Totals,
    VocabularyFile,
    digest,
)
from t2f_dist.shard.sources import ORPHANED
from t2f_dist.shard.sources.webdataset import tars
from t2f_dist.shard.tally import Tally
from t2f_dist.shard.work import Failed
from t2f_dist.shard.writer import Written
from t2f_dist.storage import url
from t2f_dist.storage.folder import write_file
from t2f_dist.text.vocabulary import Vocabulary

_KINDS: tuple[Kind, ...] = ("images", "captions")
_OURS = re.compile(
    r"(train|validation|test)-[A-Za-z0-9_-]{1,60}-[0-9a-f]{12}\.(index\.npy|small)"
    r"|\.((train|validation|test)-[A-Za-z0-9_-]{1,60}-[0-9a-f]{12}\.(index\.npy|small)"
    r"|manifest\.json|vocabulary\.json|rejected\.jsonl)\.[\w-]+\.tmp"
)
_FOLLOWS = (ORPHANED, UNNAMED)
_COUNTED = ("found", "stored", "rejected", "unmatched")
CAUSES_MAX = 1000  # of refusals, which of a hostile tar may all be different
WORD_BYTES_MAX = VOCABULARY_BYTES_MAX - 1000  # of the words of a vocabulary, whose file has a head and a tail


@dataclass(frozen=True)
class Indexed:
    """A finished index.

    Attributes:
        num_tars: of which something is used.
        damaged: a line for each tar of which nothing is used.
        notes: what may be worth a look, a line each.
    """

    manifest: Manifest
    num_tars: int
    damaged: list[str]
    notes: list[str]


def index(
    recipe: IndexRecipe, workers: int, overwrite: bool = False, progress: bool = True, retries: int = 2
) -> Indexed:
    """Write the manifest, and for each tar its indices and small files, to `recipe.out`; the tars are only read.

    The bytes do not depend on `workers`. After a kill, or where some tars could not be read, the same call goes on
    with those that are not done.

    Raises:
        FileNotFoundError: no tar is where the recipe says.
        FileExistsError: `recipe.out` holds a finished index or shards.
        ValueError: a place is not allowed, no sample is usable, or none falls into train.
        OSError: a tar cannot be read. The others are done first.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least 1")
    out = _out(recipe.out, overwrite)
    found = {shard_place(tar): ForeignTar(tar) for pattern in recipe.tars for tar in tars(pattern)}
    tasks = list(found.values())
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # first: without it nothing here counts as finished
    (out / FOLDER).mkdir(exist_ok=True)
    content = recipe.model_dump(mode="json", exclude={"out", "tars"})
    build = digest(json.dumps(content, sort_keys=True).encode())
    waiting = [task for task in tasks if task.record(out, build) is None]
    failed = _run(waiting, len(tasks), ForeignJob(recipe, build), workers, retries, progress)
    if failed:
        raise OSError(
            f"{len(failed)} of {len(tasks)} tars could not be read, such as {failed[0].name}: {failed[0].reason}; "
            "the same command goes on with them"
        )
    indexed = _finish(out, recipe, content, build, tasks)
    shutil.rmtree(out / FOLDER)
    return indexed


def _out(place: str, overwrite: bool) -> Path:
    local = url.local(place)
    if local is None:
        raise ValueError(f"{url.shown(place)}: an index is written to a local folder; copy it from there")
    if local.exists() and not local.is_dir():
        raise FileExistsError(f"{local} is a file; --out is a folder")
    if not (local / MANIFEST).exists():
        return local
    try:
        squared = Manifest.load(local).squared
    except ValueError:
        squared = False  # damaged, or of another version
    if squared:
        raise FileExistsError(f"{local} holds shards of t2f-dist, which have their index; choose another folder")
    if not overwrite:
        raise FileExistsError(f"{local} holds a finished index; --overwrite replaces it")
    return local


def _run(
    waiting: Sequence[ForeignTar], num_tars: int, job: ForeignJob, workers: int, retries: int, progress: bool
) -> list[Failed]:
    failed: list[Failed] = []
    done = num_tars - len(waiting)

    def advance(images: int) -> None:
        bar.update(images)

    with tqdm(unit="image", desc="index", disable=not progress, mininterval=0.5) as bar:
        bar.set_postfix_str(f"{done} of {num_tars} tars", refresh=False)
        workers = min(workers, max(1, len(waiting)))
        for outcome in engine.run("process", waiting, job, workers, retries, advance):
            failed += [outcome] if isinstance(outcome, Failed) else []
            done += 1
            bar.set_postfix_str(f"{done} of {num_tars} tars")
    return failed


@dataclass
class _Sum:
    """What the records of all tars say together; each is added and dropped, since many do not fit in memory."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _COUNTED})
    shards: dict[SplitName, list[Shard]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    num_tars: int = 0
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)

    def add(self, task: ForeignTar, record: Record) -> None:
        for name, counts in self.counts.items():
            counts.update(getattr(record, name))
        for split, shard in record.shards.items():
            self.shards[split].append(shard)
        self.num_tars += bool(record.shards)
        if record.damage:
            self.damaged.append(f"{task.tar.shown}: damaged at byte {record.position}: {record.damage}")
        self.notes += record.notes

    def cause(self, reason: str) -> None:
        if reason not in _FOLLOWS and (reason in self.causes or len(self.causes) < CAUSES_MAX):
            self.causes[reason] += 1


def _finish(
    out: Path, recipe: IndexRecipe, content: dict[str, Any], build: str, tasks: Sequence[ForeignTar]
) -> Indexed:
    total = _Sum()
    with Tally(out / FOLDER) as tally:
        with Written(out / REJECTED) as rejected:
            for task in tasks:
                record = task.record(out, build)
                if record is None:
                    raise OSError(f"{task.tar.shown} changed while it was read; run the same command again")
                total.add(task, record)
                tally.add(record.counts)
                _reject(rejected, task, record, out, total)
        if not total.shards["train"]:
            most = f"; most often: {total.causes.most_common(1)[0][0]}" if total.causes else ""
            raise ValueError(f"no usable sample in train, of {len(tasks)} tars{most}; see {out / REJECTED}")
        counts = tally.most_common(recipe.text.max_words or WORDS_MAX, WORD_BYTES_MAX, recipe.text.min_count)
    vocabulary = Vocabulary.from_counts(counts)
    text = vocabulary.to_json().encode()
    write_file(out / VOCABULARY, text)
    splits: dict[SplitName, Split] = {
        split: Split(num_samples=sum(shard.num_samples for shard in shards), shards=tuple(shards))
        for split, shards in total.shards.items()
    }
    manifest = Manifest(
        recipe=content,
        image_resolution=recipe.image.resolution,
        image_format="any",
        squared=False,
        sample_rate_hz=None,
        vocabulary=VocabularyFile(file=VOCABULARY, sha256=digest(text), num_words=len(vocabulary.words)),
        rejected=RejectedFile(file=REJECTED, sha256=rejected.sha256),
        splits=splits,
        totals={kind: Totals(**{name: counts[kind] for name, counts in total.counts.items()}) for kind in _KINDS},
    )
    kept = {name for split in splits.values() for shard in split.shards for name in (shard.index, shard.small)}
    for path in out.iterdir():  # of an earlier index
        if _OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink()
    manifest.save(out)
    return Indexed(manifest, total.num_tars, total.damaged, total.notes)


def _reject(written: Written, task: ForeignTar, record: Record, out: Path, total: _Sum) -> None:
    """All that is refused of a tar, into the one file of all; a damaged tar in its place."""
    if record.damage:
        row = {"kind": "tars", "status": "rejected", "where": task.tar.shown}
        row |= {"reason": record.damage, "position": record.position}
        written.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
        total.cause(record.damage)
    with open(task.rejected_path(out), "rb") as stream:
        for line in stream:
            written.write(line)
            total.cause(json.loads(line)["reason"])


def report(indexed: Indexed) -> None:
    """Print what a person should know of tars that are not used, to standard error."""
    for lines, of in ((indexed.damaged, "damaged"), (indexed.notes, "note")):
        for line in lines[:10]:
            print(f"{of}: {line}", file=sys.stderr)
        if len(lines) > 10:
            print(f"{of}: and {len(lines) - 10} more", file=sys.stderr)
