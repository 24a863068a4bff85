"""What it costs to watch: the comparison of ranks, the watchdog, the look at skipped steps; as a share of training.

    python -m benchmarks.vigilance --shards runs/demo/shards

Launches of one and two ranks train configs/demo.yaml at its last resolution. Beside the steps, each part is timed on
its own, in the same processes: such shares are far below what two launches differ by.

The watchdog's thread costs processor time, of which this tells how much; it takes none from a rank that has a core to
itself, and from one that has not, as much.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks import section

NAME = "vigilance"
BATCH = 48
BOUND_SECONDS = 300  # of the watchdog, the default
PHASES = 6  # that a step enters, at most
STEPS, COMPARISONS, IDLE_SECONDS = 40, 7, 10.0


def measure(shards: Path, ranks: int) -> dict[str, Any]:
    """Seconds of each part, as rank 0 sees them."""
    line = [sys.executable, "-m", "accelerate.commands.launch"]
    line += ["--config_file", str(section.ROOT / "launch" / "cpu.yaml"), "--num_processes", str(ranks)]
    line += ["-m", "benchmarks.vigilance", "--shards", str(shards.resolve()), "--as-rank"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(section.ROOT)}
    done = subprocess.run(line, env=environment, check=True, stdout=subprocess.PIPE, text=True, cwd=section.ROOT)
    return json.loads(done.stdout.strip().splitlines()[-1])


def as_rank(shards: Path) -> None:
    """The life of a rank: its figures as a line of JSON, by rank 0."""

    from t2f_dist.config.load import read_yaml, resolve
    from t2f_dist.config.schema import Config
    from t2f_dist.data.loader import batches, open_samples
    from t2f_dist.training import fingerprint
    from t2f_dist.training.corpus import facts
    from t2f_dist.training.divergence import Divergence
    from t2f_dist.training.gan import Gan
    from t2f_dist.training.growth import Growth, num_parts
    from t2f_dist.training.launch.ranks import Ranks
    from t2f_dist.training.launch.watchdog import Watchdog
    from t2f_dist.training.step import train_step

    stages = [{"resolution": 32, "stable_images": BATCH * STEPS, "batch_size": BATCH}]
    changes = [f"data.shards={shards}", f"stages={json.dumps(stages)}", "wandb.mode=disabled"]
    path = section.ROOT / "configs" / "demo.yaml"
    config = resolve(Config, read_yaml(str(path)), changes)
    ranks = Ranks(60)
    samples = open_samples(config)
    gan = Gan(config, facts(samples), ranks.device, ranks.world_size)
    growth = Growth(config.stages)
    divergence = Divergence(8, ranks, samples)
    parts = num_parts(config, BATCH, ranks.world_size)
    steps, watches = [], []
    stream = batches(samples, growth.steps(0), ranks.rank, ranks.world_size, 0)
    for number, batch in enumerate(stream):
        seen = number * BATCH
        before = time.perf_counter()
        metrics = train_step(gan, batch, growth.at(seen), seen, parts)
        gan.update_ema(seen, BATCH)
        between = time.perf_counter()
        divergence.watch(gan, batch, metrics, seen)
        steps.append(between - before)
        watches.append(time.perf_counter() - between)
    comparisons = []
    for _ in range(COMPARISONS):
        ranks.barrier()
        before = time.perf_counter()
        fingerprint.compare(gan, growth.at(0), 0, ranks)
        comparisons.append(time.perf_counter() - before)
    with tempfile.TemporaryDirectory() as folder, Watchdog(ranks, BOUND_SECONDS, Path(folder)) as watchdog:
        before = time.perf_counter()
        for number in range(10_000):
            watchdog.enter("training step", number)
        beat = (time.perf_counter() - before) / 10_000
        before = time.process_time()
        time.sleep(IDLE_SECONDS)  # this thread does nothing: what the process does is the watchdog's
        thread = (time.process_time() - before) / IDLE_SECONDS
    found = {
        "step": statistics.median(steps[5:]),
        "watch": statistics.median(watches[5:]),
        "comparison": statistics.median(comparisons),
        "beat": beat,
        "thread": thread,
        "parameters": sum(p.numel() for p in gan.networks.parameters()),
        "bytes": sum(t.numel() * t.element_size() for t in (gan.weights() | gan.moments()).values()),
        "interval": config.train.fingerprint_every_images,
        "saves": config.checkpoint.every_images,
    }
    gan.release()
    samples.close()
    if ranks.is_main:
        click.echo(json.dumps(found))
    ranks.leave()


def shares(found: dict[str, Any]) -> dict[str, float]:
    """Of the time of training, by part."""
    steps_between = min(found["interval"], found["saves"]) / BATCH  # each checkpoint is compared, too
    return {
        "comparing the ranks": found["comparison"] / (found["step"] * steps_between),
        "the watchdog's beats": PHASES * found["beat"] / found["step"],
        "the watchdog's thread": found["thread"],
        "looking at skipped steps": found["watch"] / found["step"],
    }


def report(measured: dict[int, list[dict[str, Any]]], rounds: int) -> list[str]:
    rows = []
    for name in ("comparing the ranks", "the watchdog's beats", "the watchdog's thread", "looking at skipped steps"):
        cells = []
        for found in measured.values():
            cells.append(section.spread([100 * shares(each)[name] for each in found]))
        rows.append([name, *cells])
    totals = [section.spread([100 * sum(shares(each).values()) for each in found]) for found in measured.values()]
    rows.append(["together", *totals])
    first = measured[2][0]
    comparison = section.spread([1000 * each["comparison"] for each in measured[2]])
    return [
        f"{section.machine()}; {section.medians(rounds)}; configs/demo.yaml at 32 px, batch {BATCH},"
        f" {first['parameters'] / 1e6:.1f} million parameters. Percent of the time of training, at the intervals of"
        " that configuration.",
        "",
        *section.table(["percent of training", *(f"{ranks} rank{'s' * (ranks > 1)}" for ranks in measured)], rows),
        "",
        f"One comparison of two ranks takes {comparison} ms for {first['bytes'] / 1e6:.0f} MB of weights, moving"
        f" average and moments; it is made every {first['interval']:,} images and before each checkpoint (every"
        f" {first['saves']:,}).",
    ]


@click.command()
@click.option("--shards", required=True, type=click.Path(path_type=Path, exists=True), help="Of drawn portraits.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Launches of each.")
@click.option("--quick", is_flag=True, help="One round; README.md stays as it is.")
@click.option("--as-rank", "inner", is_flag=True, hidden=True)
def main(shards: Path, rounds: int, quick: bool, inner: bool) -> None:
    """Measure, print the table, and write it into benchmarks/README.md."""
    if inner:
        as_rank(shards)
        return
    rounds = 1 if quick else rounds
    measured: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for number in range(rounds):
        for ranks, found in measured.items():
            click.echo(f"round {number + 1} of {rounds}: {ranks} rank{'s' * (ranks > 1)}", err=True)
            found.append(measure(shards, ranks))
    lines = report(measured, rounds)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
