"""Images a second of each stage: ranks and threads, fp32 and bf16, and the share of time spent waiting for data.

    python -m benchmarks.training_speed --shards runs/demo/shards

Each setting is a real launch of configs/demo.yaml with short stages. Settings take turns, round by round, so that a
machine that drifts does so for all; the table gives medians over rounds and log lines, with the lowest and highest.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import section

NAME = "training speed"
RESOLUTIONS = (4, 8, 16, 32)
BATCH = 48
LINES = 5  # log lines a stage; the first, with its warm-up, is left out


@dataclass(frozen=True)
class Setting:
    ranks: int
    threads: int
    precision: str

    @property
    def name(self) -> str:
        return f"{self.ranks} rank{'s' * (self.ranks > 1)} x {self.threads} thread{'s' * (self.threads > 1)}"


SETTINGS = [Setting(r, t, p) for p in ("fp32", "bf16") for r, t in ((1, 1), (1, 2), (2, 1))]


def measure(setting: Setting, shards: Path, steps: int) -> list[dict[str, float]]:
    """The log lines of one launch."""
    images = steps * BATCH
    stages = [{"resolution": r, "stable_images": images * LINES, "batch_size": BATCH} for r in RESOLUTIONS]
    with tempfile.TemporaryDirectory() as folder:
        line = [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            str(section.ROOT / "launch" / "cpu.yaml"),
        ]
        line += ["--num_processes", str(setting.ranks), "-m", "t2f_dist.train"]
        line += ["--config", str(section.ROOT / "configs" / "demo.yaml"), "--run", folder]
        changes = {
            "data.shards": shards.resolve(),
            "stages": json.dumps(stages),
            "train.precision": setting.precision,
            "train.channels_last": str(setting.precision == "bf16").lower(),  # in fp32 it is slower
            "log.every_images": images,
            "log.grid_every_images": 10**9,
            "checkpoint.every_images": 10**9,
            "wandb.mode": "disabled",
        }
        for key, value in changes.items():
            line += ["--set", f"{key}={value}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(setting.threads)}
        subprocess.run(line, env=environment, check=True, stdout=subprocess.DEVNULL)
        return [json.loads(text) for text in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def table(found: dict[Setting, list[dict[str, float]]], rounds: int) -> list[str]:
    """The measurements as Markdown."""
    lines = [
        f"{section.machine()}; {section.medians(rounds)}; batch {BATCH}, configs/demo.yaml.",
        "",
        "| precision | launch | " + " | ".join(f"{r} px" for r in RESOLUTIONS) + " | waiting for data at 32 px |",
        "| --- | --- |" + " ---: |" * (len(RESOLUTIONS) + 1),
    ]
    for setting, entries in found.items():
        cells = []
        for resolution in RESOLUTIONS:
            speeds = [e["speed/images_per_second"] for e in entries if e["schedule/resolution"] == resolution]
            cells.append(f"{statistics.median(speeds):.0f} ({min(speeds):.0f}-{max(speeds):.0f})")
        waits = [e["speed/data_wait_share"] for e in entries if e["schedule/resolution"] == RESOLUTIONS[-1]]
        cells.append(f"{statistics.median(waits):.1%}")
        lines.append(f"| {setting.precision} | {setting.name} | " + " | ".join(cells) + " |")
    return [*lines, "", f"At 32 px: {_ratios(found)}"]


def _ratios(found: dict[Setting, list[dict[str, float]]]) -> str:
    def speed(ranks: int, threads: int, precision: str) -> float:
        entries = found[Setting(ranks, threads, precision)]
        return statistics.median(e["speed/images_per_second"] for e in entries if e["schedule/resolution"] == 32)

    return (
        f"bf16 is {speed(2, 1, 'bf16') / speed(2, 1, 'fp32'):.2f} times fp32 on two ranks; two ranks of a thread are"
        f" {speed(2, 1, 'bf16') / speed(1, 1, 'bf16'):.2f} times one, and one rank of two threads"
        f" {speed(1, 2, 'bf16') / speed(1, 1, 'bf16'):.2f} times (bf16)."
    )


@click.command()
@click.option("--shards", required=True, type=click.Path(path_type=Path, exists=True), help="Of drawn portraits.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Launches of each setting.")
@click.option("--steps", default=10, show_default=True, type=click.IntRange(1), help="Steps a log line.")
def main(shards: Path, rounds: int, steps: int) -> None:
    """Measure, print the table, and write it into benchmarks/README.md."""
    found: dict[Setting, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
    for number in range(rounds):
        for setting in SETTINGS:
            click.echo(f"round {number + 1} of {rounds}: {setting.precision}, {setting.name}")
            entries = measure(setting, shards, steps)
            by_stage = [[e for e in entries if e["schedule/resolution"] == r][1:] for r in RESOLUTIONS]
            found[setting] += [entry for stage in by_stage for entry in stage]
    lines = table(found, rounds)
    click.echo("\n".join(lines))
    section.write(NAME, lines)


if __name__ == "__main__":
    main()
