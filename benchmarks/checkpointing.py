"""What a checkpoint costs training: a copy that a thread writes, beside a save which is waited for.

    make demo && python -m benchmarks.checkpointing

Two networks are trained on the CPU: those of configs/demo.yaml, and the same with more channels. A save that is waited
for is measured twice: as it would be done with safetensors.torch.save and the same syncs, and with the copy and the
archive of t2f-dist, without the thread. The floor is a copy of as many bytes from one place in memory to another, both
used before. The disk is that of runs/benchmarks.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import safetensors.torch
import torch

from benchmarks import corpora, section
from t2f_dist.config.load import read_yaml, resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.checkpoint import Copy, State
from t2f_dist.training.checkpoints.saver import Saver
from t2f_dist.training.corpus import facts
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from t2f_dist.training.step import train_step

NAME = "checkpointing"
RESOLUTION = 32
LARGE = [640, 640, 384, 192]  # channels of 4 to 32 pixels
SIZES: dict[str, tuple[list[str], int]] = {  # changes to configs/demo.yaml, batch size
    "configs/demo.yaml": ([], 48),
    f"with {', '.join(map(str, LARGE))} channels": (
        [f"generator.channels={LARGE}", f"discriminator.channels={LARGE}", "loss.contrastive.group_size=8"],
        8,
    ),
}
QUIET_STEPS = 6
Found = dict[str, list[float]]


class Run:
    """Networks that are trained on one batch again and again."""

    def __init__(self, shards: Path, changes: list[str], size: int):
        stage = f"stages=[{{resolution: {RESOLUTION}, stable_images: 1000000, batch_size: {size}}}]"
        mapping = read_yaml(section.ROOT / "configs" / "demo.yaml")
        self.config = resolve(Config, mapping, [f"data.shards={shards}", stage, *changes])
        torch.manual_seed(0)
        samples = open_samples(self.config)
        self.gan = Gan(self.config, facts(samples), torch.device("cpu"), world_size=1)
        stream = batches(samples, iter([(0, size, RESOLUTION)]), 0, 1, 0)
        self.batch = next(stream)
        stream.close()
        samples.close()
        self.size, self.images_seen = size, 0
        self.phase = Growth(self.config.stages).at(0)
        self.gan.enter(self.phase)

    def step(self) -> None:
        train_step(self.gan, self.batch, self.phase, self.images_seen, 1)
        self.gan.update_ema(self.images_seen, self.size)
        self.images_seen += self.size

    def state(self) -> State:
        return State(self.images_seen, "", self.config.model_dump(mode="json"))

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.gan.networks.parameters())


def measure(shards: Path, changes: list[str], size: int, rounds: int, home: Path) -> Found:
    run = Run(shards, changes, size)
    found: Found = {"parameters": [run.num_parameters]}
    with tempfile.TemporaryDirectory(dir=home) as folder:
        savers = {"background": Saver(Archive(Path(folder, "background")), click.echo)}
        archive, copy = Archive(Path(folder, "waited for")), Copy()
        for number in range(rounds + 1):
            first = number == 0  # takes the memory, which the later ones use again
            for name, seconds in _round(run, savers["background"], archive, copy, Path(folder)):
                if not first:
                    found.setdefault(name, []).append(seconds)
                elif name == "background":
                    found["first"] = [seconds]
        found["bytes"] = [float(sum(part.nbytes for part in copy.files.values()))]
        savers["background"].close()
    run.gan.release()
    return found


def _round(run: Run, saver: Saver, archive: Archive, copy: Copy, folder: Path) -> Iterator[tuple[str, float]]:
    run.step()
    started = time.perf_counter()
    for _ in range(QUIET_STEPS):
        run.step()
    quiet = QUIET_STEPS * run.size / (time.perf_counter() - started)
    yield "quiet rate", quiet

    started = time.perf_counter()
    saver.save(run.gan, run.state())
    yield "background", saver.pause_seconds
    begun, images = time.perf_counter(), run.images_seen
    while saver.busy:
        run.step()
    during, seconds = run.images_seen - images, time.perf_counter() - begun
    saver.wait()
    yield "write", saver.write_seconds
    yield "rate meanwhile", during / seconds if during else quiet
    yield "cost", max(0.0, saver.pause_seconds + seconds - during / quiet)

    run.step()
    started = time.perf_counter()
    copy.take(run.gan, run.state())
    archive.write(copy.images_seen, copy.files, copy.body, click.echo)
    archive.prune()
    yield "waited for", time.perf_counter() - started

    yield "serialised", timed(lambda: serialise(run.gan, folder))
    flat = torch.cat([torch.frombuffer(part, dtype=torch.uint8) for part in copy.files.values()])
    other = torch.empty_like(flat).copy_(flat)
    yield "floor", timed(lambda: other.copy_(flat))


def serialise(gan: Gan, folder: Path) -> None:
    """As a save is usually done: each file made in memory, written, synced and hashed, then renamed."""
    for name, tensors in checkpoint.tensors(gan).items():
        content = safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()})
        path = folder / f"{name}.tmp"
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        hashlib.sha256(content).hexdigest()
        path.replace(folder / name)


def timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def report(found: dict[str, Found], rounds: int, threads: int) -> list[str]:
    rows = []
    for name, figures in found.items():
        slower = 1 - statistics.median(figures["rate meanwhile"]) / statistics.median(figures["quiet rate"])
        shown = [section.spread([1000 * value for value in figures[key]]) for key in ROWS]
        megabytes = f"{figures['parameters'][0] / 1e6:.1f} M, {figures['bytes'][0] / 1e6:.1f} MB"
        rows.append([name, megabytes, *shown, f"{slower:.0%}"])
    header = ["networks", "parameters, checkpoint", *ROWS.values(), "images a second fewer meanwhile"]
    return [
        f"{section.machine()}; {threads} threads; torch {torch.__version__}; {section.medians(rounds)}. Milliseconds.",
        "",
        *section.table(header, rows, texts=2),
    ]


ROWS = {
    "background": "pause, written by a thread",
    "waited for": "pause, waited for",
    "serialised": "pause, waited for, by safetensors.torch.save",
    "floor": "copy of as many bytes",
    "first": "pause of the first, which takes the memory",
    "write": "the thread's writing",
    "cost": "training time lost in all",
}


@click.command()
@click.option("--shards", default="runs/demo/shards", show_default=True, help="Of `make demo`.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1), help="Saves of each kind.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1))
@click.option("--quick", is_flag=True, help="One round; README.md stays as it is.")
def main(shards: str, rounds: int, threads: int, quick: bool) -> None:
    """Measure, print the table, and write it into benchmarks/README.md."""
    rounds = 1 if quick else rounds
    torch.set_num_threads(threads)
    corpora.HOME.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, (changes, size) in SIZES.items():
        found[name] = measure(Path(shards).resolve(), changes, size, rounds, corpora.HOME)
        pause, waited = (1000 * statistics.median(found[name][key]) for key in ("background", "waited for"))
        click.echo(f"{name}: {pause:.1f} ms, waited for {waited:.1f} ms")
    lines = report(found, rounds, threads)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
