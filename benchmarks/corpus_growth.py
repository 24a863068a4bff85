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
RESOLUTION, SAMPLES_PER_SHARD, NUM_REAL = 64, 2500, 8
COUNTS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)


def grow(real: Path, folder: Path, shards: list[Shard], count: int) -> int:
    """Make `folder` a corpus of `count` samples; `shards` are those that it has. Returns the bytes of its manifest."""
    manifest = Manifest.load(real)
    originals = manifest.shards("train")
    for number in range(len(shards), count // SAMPLES_PER_SHARD):
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


def row(count: int, manifest_bytes: int, measured: Sequence[dict[str, float]]) -> list[str]:
    def cell(name: str, scale: float = 1.0) -> str:
        return section.figure(statistics.median(each[name] for each in measured) * scale)

    times = [section.spread([each[name] for each in measured]) for name in ("open", "order")]
    return [
        f"{count:,}",
        f"{count // SAMPLES_PER_SHARD:,}",
        section.figure(manifest_bytes / 1e6),
        *times,
        cell("memory_open"),
        cell("first", 1000),
        cell("middle", 1000),
        cell("far", 1000),
        cell("scattered", 1000),
        cell("memory_used"),
        cell("whole_order"),
    ]


def report(rows: list[list[str]], rounds: int) -> list[str]:
    header = [
        "samples",
        "shards",
        "manifest, MB",
        "open, s",
        "an epoch's order, s",
        "memory then, MB",
        "first batch at 0, ms",
        "in the middle",
        "at 10^9",
        "a batch anywhere, ms",
        "memory after 200, MB",
        "order of every sample, s",
    ]
    return [
        f"{section.machine()}; median of {rounds} processes (lowest-highest); {SAMPLES_PER_SHARD:,} samples a shard;"
        " batches of 64 at 32 px with all that training draws. Memory: anonymous, what imports take left out.",
        "",
        *section.table(header, rows, texts=0),
    ]


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Processes of each size.")
@click.option("--quick", is_flag=True, help="One round, to a million samples; README.md stays as it is.")
def main(rounds: int, quick: bool) -> None:
    """Measure, print the table, and write it into benchmarks/README.md."""
    rounds, counts = (1, COUNTS[:3]) if quick else (rounds, COUNTS)
    real = corpora.stored(RESOLUTION, NUM_REAL * SAMPLES_PER_SHARD, SAMPLES_PER_SHARD, peers=False)["t2f-dist"]
    assert [shard.num_samples for shard in Manifest.load(real).shards("train")] == [SAMPLES_PER_SHARD] * NUM_REAL
    folder = corpora.HOME / "growth"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(real / "vocabulary.json", folder)
    shutil.copy(real / "rejected.jsonl", folder)
    cores = [max(environment.cores())]
    rows: list[list[str]] = []
    shards: list[Shard] = []
    try:
        for count in counts:
            size = grow(real, folder, shards, count)
            measured = []
            for _ in range(rounds):
                found = environment.run("t2f-dist", "t2f_dist_growth.py", str(folder), str(RESOLUTION), cores=cores)
                measured.append(found)
                click.echo(f"{count:,}: {json.dumps({name: round(value, 4) for name, value in found.items()})}")
            rows.append(row(count, size, measured))
    finally:
        shutil.rmtree(folder)
    lines = report(rows, rounds)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
