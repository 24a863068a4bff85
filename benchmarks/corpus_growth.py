"""Memory and time as the corpus grows, from ten thousand to a hundred million samples.

    python -m benchmarks.corpus_growth

The manifest names as many shards as the samples need; their files are links to those of eight real shards, so that each
is opened, checked and read as any other.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import corpora, section
from benchmarks.peers import environment
from t2f_dist.shard.manifest import Manifest, Shard, Split, Totals, shard_name

NAME = "corpus growth"
RESOLUTION, NUM_REAL = 64, 8
COUNTS = {  # samples a shard -> samples
    2_500: (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
    10_000: (1_000_000, 10_000_000, 100_000_000),
}
QUICK = {2_500: (10_000, 1_000_000), 10_000: (1_000_000,)}


def grow(real: Path, folder: Path, shards: list[Shard], count: int) -> int:
    """Make `folder` a corpus of `count` samples; `shards` are those that it has. Returns the bytes of its manifest."""
    manifest = Manifest.load(real)
    originals = manifest.shards("train")
    for number in range(len(shards), count // originals[0].num_samples):
        original = originals[number % len(originals)]
        name = shard_name("train", number)
        names = {"name": name, "index": Path(name).stem + ".index.npy", "small": Path(name).stem + ".small"}
        for field, own in names.items():
            os.link(real / original.model_dump()[field], folder / own)
        shards.append(original.model_copy(update=names))
    totals = {kind: Totals(found=count, stored=count, rejected=0, unmatched=0) for kind in manifest.totals}
    splits = {"train": Split(num_samples=count, shards=tuple(shards))}
    manifest.model_copy(update={"splits": splits, "totals": totals}).save(folder)
    return (folder / "manifest.json").stat().st_size


def row(count: int, per_shard: int, manifest_bytes: int, measured: Sequence[dict[str, float]]) -> list[str]:
    def cell(name: str, scale: float = 1.0) -> str:
        return section.figure(statistics.median(each[name] for each in measured if name in each) * scale)

    times = [section.spread([each[name] for each in measured]) for name in ("open", "order")]
    return [
        f"{count:,}",
        f"{count // per_shard:,} of {per_shard:,}",
        section.figure(manifest_bytes / 1e6),
        *times,
        cell("memory_open"),
        cell("first", 1000),
        cell("middle", 1000),
        cell("far", 1000),
        cell("scattered", 1000),
        cell("memory_used"),
        cell("memory_workers"),
        cell("whole_order"),
    ]


def report(rows: list[list[str]], rounds: int) -> list[str]:
    header = [
        "samples",
        "shards",
        "manifest, MB",
        "open, s",
        "an epoch's order, s",
        "memory, MB",
        "first batch at 0, ms",
        "in the middle",
        "at 10^9",
        "a batch anywhere, ms",
        "memory then, MB",
        "of three processes, MB",
        "order of every sample, s",
    ]
    return [
        f"{section.machine()}; {section.medians(rounds, 'process')} of each size; batches of 64 at 32 px with all that"
        " training draws. Memory is anonymous (RssAnon), what imports take left out: with all open; after batches"
        " anywhere; and, in a single run of its own, of a rank with two loader processes that read batches anywhere,"
        " summed, so that what they share counts three times.",
        "",
        *section.table(header, rows, texts=0),
    ]


def measure(per_shard: int, counts: Sequence[int], rounds: int) -> list[list[str]]:
    """A row of each number of samples."""
    real = corpora.stored(RESOLUTION, NUM_REAL * per_shard, per_shard, peers=False)["t2f-dist"]
    assert {shard.num_samples for shard in Manifest.load(real).shards("train")} == {per_shard}
    folder = corpora.HOME / "growth"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(real / "vocabulary.json", folder)
    shutil.copy(real / "rejected.jsonl", folder)
    cores = sorted(environment.cores())
    rows: list[list[str]] = []
    shards: list[Shard] = []
    try:
        for count in counts:
            size = grow(real, folder, shards, count)
            measured = []
            for _ in range(rounds):
                arguments = ["t2f-dist", "t2f_dist_growth.py", str(folder), str(RESOLUTION)]
                found = environment.run(*arguments, "alone", cores=cores[-1:])
                if not measured:
                    found |= environment.run(*arguments, "workers", cores=cores)
                measured.append(found)
                click.echo(f"{count:,}: {json.dumps({name: round(value, 4) for name, value in found.items()})}")
            rows.append(row(count, per_shard, size, measured))
    finally:
        shutil.rmtree(folder)
    return rows


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Processes of each size.")
@click.option("--quick", is_flag=True, help="One round, to a million samples; README.md stays as it is.")
def main(rounds: int, quick: bool) -> None:
    """Measure, print the table, and write it into benchmarks/README.md."""
    rounds = 1 if quick else rounds
    rows: list[list[str]] = []
    for per_shard, counts in (QUICK if quick else COUNTS).items():
        rows += measure(per_shard, counts, rounds)
    lines = report(rows, rounds)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
