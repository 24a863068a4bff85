"""The training step beside that of pro-gan-pth 3.4: images a second, and the share of what the processor can do.

    python -m benchmarks.training_step

Both have the same networks, batch and loss (WGAN-GP with drift), and a step is one of the critic, one of the generator,
and the moving average. The operations of convolutions and products of matrices, forward and backward, are counted by
torch; the peak is a large product of matrices or a large convolution, whichever is faster, in the same process, by the
same threads, in the same format.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import click

from benchmarks import corpora, section
from benchmarks.loading import CORPORA
from benchmarks.peers import environment

NAME = "training step"
CHANNELS = (128, 128, 128, 128, 64)  # of 4 to 64 pixels
STAGES = (4, 8, 16, 32, 64)
BATCH = 16
CORPUS = 256  # pixels


@dataclass(frozen=True)
class System:
    name: str
    environment: str
    script: str
    precision: str


SYSTEMS = (
    System("pro-gan-pth 3.4", "pro-gan-pth-3.4", "pro_gan_step.py", "fp32"),
    System("t2f-dist", "t2f-dist", "t2f_dist_step.py", "fp32"),
    System("pro-gan-pth 3.4 under autocast", "pro-gan-pth-3.4", "pro_gan_step.py", "bf16"),
    System("t2f-dist", "t2f-dist", "t2f_dist_step.py", "bf16"),
)
Found = dict[tuple[System, int], list[dict[str, float]]]


def measure(rounds: int, steps: int, threads: int) -> Found:
    folder = str(corpora.stored(CORPUS, *CORPORA[CORPUS], peers=False)["t2f-dist"])
    cores = sorted(environment.cores())[:threads]
    found: Found = {}
    servers = {
        script: environment.Server(name, script, cores=cores, threads=threads)
        for name, script in dict.fromkeys((system.environment, system.script) for system in SYSTEMS)
    }
    try:
        for number in range(rounds):
            for resolution in STAGES:
                for system in SYSTEMS:
                    answer = servers[system.script].ask(
                        folder=folder,
                        resolution=resolution,
                        stages=STAGES,
                        channels=CHANNELS,
                        batch_size=BATCH,
                        precision=system.precision,
                        steps=max(1, steps * 16 // resolution) if resolution > 16 else steps,
                    )
                    found.setdefault((system, resolution), []).append(answer)
                    click.echo(
                        f"round {number + 1} of {rounds}: {resolution} px, {system.name}, {system.precision}:"
                        f" {answer['images'] / answer['seconds']:.2f} images a second,"
                        f" {answer['flops'] / 1e9:.2f} GFLOP an image, peak {answer['peak'] / 1e9:.0f} GFLOP/s"
                    )
    finally:
        for server in servers.values():
            server.close()
    return found


def rate(answer: dict[str, float]) -> float:
    return answer["images"] / answer["seconds"]


def share(answer: dict[str, float]) -> float:
    """Of the peak."""
    return answer["flops"] * rate(answer) / answer["peak"]


def report(found: Found, rounds: int, threads: int) -> list[str]:
    rows = []
    for system in SYSTEMS:
        cells = []
        for resolution in STAGES:
            answers = found[system, resolution]
            used = statistics.median(share(answer) for answer in answers)
            cells.append(f"{section.spread([rate(answer) for answer in answers])}; {used:.0%}")
        rows.append([system.name, system.precision, *cells])
    theirs, ours, theirs_half, ours_half = SYSTEMS
    for name, one, other in (("fp32", ours, theirs), ("bf16", ours_half, theirs_half)):
        ratios = [
            statistics.median(map(rate, found[one, r])) / statistics.median(map(rate, found[other, r])) for r in STAGES
        ]
        rows.append(["t2f-dist / pro-gan-pth", name, *(f"{ratio:.2f} times" for ratio in ratios)])
    flops = []
    for system in (theirs, ours):
        counted = ", ".join(section.figure(found[system, r][0]["flops"] / 1e9) for r in STAGES)
        flops.append(f"{system.name} {counted}")
    peaks = {
        precision: section.spread(
            [a["peak"] / 1e9 for (s, _), answers in found.items() if s.precision == precision for a in answers]
        )
        for precision in ("fp32", "bf16")
    }
    ran = environment.versions("t2f-dist", ["torch"])
    return [
        f"{section.machine()}; {threads} threads; torch {ran['torch']}; {section.medians(rounds)};"
        f" batch {BATCH}, channels {', '.join(map(str, CHANNELS))}. Images a second; share of the peak.",
        "",
        *section.table(["", "format", *(f"{r} px" for r in STAGES)], rows, texts=2),
        "",
        f"GFLOP an image at {', '.join(map(str, STAGES))} px: {'; '.join(flops)}. Peak in GFLOP/s: fp32"
        f" {peaks['fp32']}, bf16 {peaks['bf16']}.",
    ]


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each at each stage.")
@click.option("--steps", default=8, show_default=True, type=click.IntRange(1), help="Steps a turn, fewer from 32 px.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="And cores.")
@click.option("--quick", is_flag=True, help="One round of one step; README.md stays as it is.")
def main(rounds: int, steps: int, threads: int, quick: bool) -> None:
    """Measure, print the table, and write it into benchmarks/README.md."""
    rounds, steps = (1, 1) if quick else (rounds, steps)
    lines = report(measure(rounds, steps, threads), rounds, threads)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
