"""An index beside tars that somebody else wrote, so that training reads them where they are and as they are."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from t2f_dist.config.index import IndexRecipe
from t2f_dist.shard import engine
from t2f_dist.shard.engine import Failed
from t2f_dist.shard.foreign import FOLDER, UNNAMED, ForeignJob, ForeignTar, Record, shard_place
from t2f_dist.shard.manifest import (
    MANIFEST,
    REJECTED,
    SPLITS,
    VOCABULARY,
    Kind,
    Manifest,
    RejectedFile,
    Split,
    SplitName,
    Totals,
    VocabularyFile,
    digest,
)
from t2f_dist.shard.sources import ORPHANED
from t2f_dist.shard.sources.webdataset import tars
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
    records = [task.record(out, build) for task in tasks]
    changed = [task.tar.shown for task, record in zip(tasks, records) if record is None]
    if changed:
        raise OSError(f"{changed[0]} changed while it was read; run the same command again")
    indexed = _finish(out, recipe, content, tasks, [record for record in records if record is not None])
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


def _finish(
    out: Path, recipe: IndexRecipe, content: dict[str, Any], tasks: list[ForeignTar], records: list[Record]
) -> Indexed:
    rejected, causes = _rejected(out, tasks, records)
    if not any("train" in record.shards for record in records):
        most = f"; most often: {causes.most_common(1)[0][0]}" if causes else ""
        raise ValueError(f"no usable sample in train, of {len(records)} tars{most}; see {out / REJECTED}")
    counts: Counter[str] = sum((record.counts for record in records), Counter())
    vocabulary = Vocabulary.from_counts(counts, recipe.text.min_count, recipe.text.max_words)
    text = vocabulary.to_json().encode()
    write_file(out / VOCABULARY, text)
    totals: dict[Kind, Totals] = {
        kind: Totals(
            found=sum(record.found[kind] for record in records),
            stored=sum(record.stored[kind] for record in records),
            rejected=sum(record.rejected[kind] for record in records),
            unmatched=sum(record.unmatched[kind] for record in records),
        )
        for kind in _KINDS
    }
    splits: dict[SplitName, Split] = {}
    for split in SPLITS:
        shards = tuple(record.shards[split] for record in records if split in record.shards)
        splits[split] = Split(num_samples=sum(shard.num_samples for shard in shards), shards=shards)
    manifest = Manifest(
        recipe=content,
        image_resolution=recipe.image.resolution,
        image_format="any",
        squared=False,
        sample_rate_hz=None,
        vocabulary=VocabularyFile(file=VOCABULARY, sha256=digest(text), num_words=len(vocabulary.words)),
        rejected=rejected,
        splits=splits,
        totals=totals,
    )
    kept = {name for split in splits.values() for shard in split.shards for name in (shard.index, shard.small)}
    for path in out.iterdir():  # of an earlier index
        if _OURS.fullmatch(path.name) and path.name not in kept:
            path.unlink()
    manifest.save(out)
    damaged = [
        f"{task.tar.shown}: damaged at byte {record.position}: {record.damage}"
        for task, record in zip(tasks, records)
        if record.damage
    ]
    notes = [note for record in records for note in record.notes]
    return Indexed(manifest, sum(bool(record.shards) for record in records), damaged, notes)


def _rejected(out: Path, tasks: list[ForeignTar], records: list[Record]) -> tuple[RejectedFile, Counter[str]]:
    """All that is refused, in one file, a damaged tar in its place; and how often for which reason."""
    causes: Counter[str] = Counter()
    with Written(out / REJECTED) as written:
        for task, record in zip(tasks, records):
            if record.damage:
                row = {"kind": "tars", "status": "rejected", "where": task.tar.shown}
                row |= {"reason": record.damage, "position": record.position}
                written.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
                causes[record.damage] += 1
            with open(task.rejected_path(out), "rb") as stream:
                for line in stream:
                    written.write(line)
                    reason = json.loads(line)["reason"]
                    if reason not in _FOLLOWS and (reason in causes or len(causes) < 1000):
                        causes[reason] += 1
    return RejectedFile(file=REJECTED, sha256=written.sha256), causes


def report(indexed: Indexed) -> None:
    """Print what a person should know of tars that are not used, to standard error."""
    for lines, of in ((indexed.damaged, "damaged"), (indexed.notes, "note")):
        for line in lines[:10]:
            print(f"{of}: {line}", file=sys.stderr)
        if len(lines) > 10:
            print(f"{of}: and {len(lines) - 10} more", file=sys.stderr)
