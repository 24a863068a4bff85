"""Images a second into ready batches at each stage: t2f-dist, webdataset, MosaicML Streaming, LitData, and the floor.

    python -m benchmarks.loading

All hold the same JPEGs and captions and give batches of 64, uint8 [64, 3, R, R] with a caption each, from the page
cache, by one core. The loaders stay open and take turns at every cell. benchmarks/peers has their code.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import corpora, section
from benchmarks.peers import environment

NAME = "loading"
RESOLUTIONS = (4, 16, 32, 64, 128, 256)
CORPORA = {256: 4096, 1024: 640}  # pixels -> samples
SMALL = 32  # stages up to here are read from the small file


@dataclass(frozen=True)
class System:
    name: str
    environment: str
    script: str
    mode: str

    @property
    def folder(self) -> str:
        return "t2f-dist" if self.mode in ("training", "pictures", "floor") else self.environment


FLOOR = System("reading and decoding alone", "t2f-dist", "floor_load.py", "floor")
OURS = System("t2f-dist, images and captions", "t2f-dist", "t2f_dist_load.py", "pictures")
TRAINING = System("t2f-dist, with all that training draws", "t2f-dist", "t2f_dist_load.py", "training")
PEERS = (
    System("webdataset", "webdataset", "webdataset_load.py", "read"),
    System("MosaicML Streaming", "mosaicml-streaming", "mosaicml_load.py", "read"),
    System("LitData", "litdata", "litdata_load.py", "read"),
)
SYSTEMS = (FLOOR, OURS, TRAINING, *PEERS)


@dataclass(frozen=True)
class Cell:
    corpus: int
    resolution: int
    workers: int


CELLS = [Cell(corpus, resolution, 0) for corpus in CORPORA for resolution in RESOLUTIONS]
SHARED = [Cell(256, resolution, 2) for resolution in (32, 256)]  # by two loader processes on two cores
Found = dict[tuple[System, Cell], list[float]]


@contextlib.contextmanager
def opened(cores: list[int]) -> Iterator[dict[System, environment.Server]]:
    servers = {s: environment.Server(s.environment, s.script, s.mode, cores=cores) for s in SYSTEMS}
    try:
        yield servers
    finally:
        for server in servers.values():
            server.close()


def measure(found: Found, cells: list[Cell], cores: list[int], rounds: int, seconds: float) -> None:
    folders = {corpus: corpora.stored(corpus, count) for corpus, count in CORPORA.items()}
    with opened(cores) as servers:
        for number in range(rounds):
            for cell in cells:
                said = []
                for system, server in servers.items():
                    if system is FLOOR and cell.workers:
                        continue
                    folder: Path = folders[cell.corpus][system.folder]
                    answer = server.ask(
                        folder=str(folder),
                        corpus=cell.corpus,
                        resolution=cell.resolution,
                        workers=cell.workers,
                        seconds=seconds,
                    )
                    rate = answer["images"] / answer["seconds"]
                    found.setdefault((system, cell), []).append(rate)
                    said.append(f"{system.name} {rate:.0f}")
                click.echo(f"round {number + 1} of {rounds}: {cell.corpus} px at {cell.resolution}: {', '.join(said)}")


def middle(found: Found, system: System, cell: Cell) -> float:
    return statistics.median(found[system, cell])


def table(found: Found, corpus: int) -> list[str]:
    cells = [cell for cell in CELLS if cell.corpus == corpus]
    rows = [[system.name, *(section.spread(found[system, cell]) for cell in cells)] for system in SYSTEMS]

    def ratios(system: System, percent: bool) -> list[str]:
        row = []
        for cell in cells:
            base = [FLOOR] if percent else PEERS
            ratio = middle(found, system, cell) / max(middle(found, each, cell) for each in base)
            row.append(f"{ratio:.0%}" if percent else f"{ratio:.1f} times")
        return row

    rows.append(["images and captions, of the floor", *ratios(OURS, percent=True)])
    rows.append(["images and captions, against the best peer", *ratios(OURS, percent=False)])
    rows.append(["with all that training draws, against the best peer", *ratios(TRAINING, percent=False)])
    return section.table([f"from {corpus} px", *(f"{cell.resolution} px" for cell in cells)], rows)


def shared_table(found: Found) -> list[str]:
    rows = [[system.name, *(section.spread(found[system, c]) for c in SHARED)] for system in (OURS, TRAINING, *PEERS)]
    header = [f"{cell.resolution} px" for cell in SHARED]
    return section.table(["from 256 px, 2 loader processes on 2 cores", *header], rows)


def report(found: Found, rounds: int, seconds: float) -> list[str]:
    ran = environment.versions("webdataset", ["webdataset", "pillow", "numpy", "torch"])
    mosaicml = environment.versions("mosaicml-streaming", ["mosaicml-streaming", "numpy", "pillow"])
    litdata = environment.versions("litdata", ["litdata", "numpy", "pillow"])
    held = {corpus: corpora.sizes(corpora.stored(corpus, count)) for corpus, count in CORPORA.items()}
    more = ", ".join(f"{size['t2f-dist'] / size['webdataset'] - 1:.0%} of {corpus} px" for corpus, size in held.items())
    return [
        f"{section.machine()}; images a second and core; median of {rounds} rounds (lowest-highest) of {seconds:g} s"
        " each; page cache warm; the loader in the process that asks.",
        "",
        *table(found, 256),
        "",
        *table(found, 1024),
        "",
        *shared_table(found),
        "",
        f"Pillow {ran['pillow']} and torch {ran['torch']} for all; webdataset {ran['webdataset']} (numpy"
        f" {ran['numpy']}), mosaicml-streaming {mosaicml['mosaicml-streaming']} (numpy {mosaicml['numpy']}), litdata"
        f" {litdata['litdata']} (numpy {litdata['numpy']}). Peers decode the JPEG whole and reduce it by box."
        f" t2f-dist's shards, with their index and small file, take more than webdataset's: {more}.",
    ]


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each at each stage.")
@click.option("--seconds", default=2.0, show_default=True, help="Of each measurement; at least three batches.")
@click.option("--quick", is_flag=True, help="One round of half a second; README.md stays as it is.")
def main(rounds: int, seconds: float, quick: bool) -> None:
    """Measure, print the tables, and write them into benchmarks/README.md."""
    rounds, seconds = (1, 0.5) if quick else (rounds, seconds)
    found: Found = {}
    measure(found, CELLS, [max(environment.cores())], rounds, seconds)
    measure(found, SHARED, sorted(environment.cores())[:2], rounds, seconds)
    lines = report(found, rounds, seconds)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
