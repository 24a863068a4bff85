"""Images a second into ready batches at each stage: t2f-dist, webdataset, MosaicML Streaming, LitData, and the floor.

    python -m benchmarks.loading

All hold the same JPEGs and captions and give batches of 64, uint8 [64, 3, R, R] with a caption each, from the page
cache, by one core. The scripts stay and take turns at every cell. benchmarks/peers has their code.

Whole epochs are measured, from the call of `iter` on: what opens, checks and unpacks files and fills buffers counts. An
epoch has to be short, then: eight shards, of which four make a window, so that t2f-dist opens each once an epoch and as
many samples are shuffled together as in webdataset's buffer. In larger shards opening them takes less of the time.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import corpora, section
from benchmarks.peers import environment

NAME = "loading"
RESOLUTIONS = (4, 16, 32, 64, 128, 256)
CORPORA = {256: (2048, 256), 1024: (320, 40)}  # pixels -> samples, and how many a shard
WINDOW = 4  # shards
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
HELPED = tuple(System(f"{peer.name}, helped", peer.environment, peer.script, "draft") for peer in PEERS)
SYSTEMS = (FLOOR, OURS, TRAINING, *PEERS, *HELPED)


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
    folders = {corpus: corpora.stored(corpus, *size) for corpus, size in CORPORA.items()}
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
                        window=WINDOW,
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

    def ratios(system: System, others: Sequence[System]) -> list[float]:
        return [middle(found, system, c) / max(middle(found, other, c) for other in others) for c in cells]

    rows.append(["images and captions, of the floor", *(f"{ratio:.0%}" for ratio in ratios(OURS, [FLOOR]))])
    for others, best in ((PEERS, "the best peer"), (HELPED, "the best peer helped")):
        for system, what in ((OURS, "images and captions"), (TRAINING, "with all that training draws")):
            rows.append([f"{what}, against {best}", *(f"{ratio:.2f} times" for ratio in ratios(system, others))])
    return section.table([f"from {corpus} px", *(f"{cell.resolution} px" for cell in cells)], rows)


def shared_table(found: Found) -> list[str]:
    rows = [[system.name, *(section.spread(found[system, c]) for c in SHARED)] for system in SYSTEMS[1:]]
    header = [f"{cell.resolution} px" for cell in SHARED]
    return section.table(["from 256 px, 2 loader processes on 2 cores", *header], rows)


def report(found: Found, rounds: int, seconds: float) -> list[str]:
    ran = environment.versions("webdataset", ["webdataset", "pillow", "numpy", "torch"])
    mosaicml = environment.versions("mosaicml-streaming", ["mosaicml-streaming", "numpy", "pillow"])
    litdata = environment.versions("litdata", ["litdata", "numpy", "pillow"])
    held = {corpus: corpora.sizes(corpora.stored(corpus, *size)) for corpus, size in CORPORA.items()}
    more = ", ".join(f"{size['t2f-dist'] / size['webdataset'] - 1:.0%} of {corpus} px" for corpus, size in held.items())
    return [
        f"{section.machine()}; images a second and core; {section.medians(rounds)} of whole epochs,"
        f" {seconds:g} s at least; page cache warm; the loader in the process that asks. {_corpora()}. What constructs"
        " the loaders is not counted, of any; from the call of `iter` on all is, the first batch too.",
        "",
        *table(found, 256),
        "",
        *table(found, 1024),
        "",
        *shared_table(found),
        "",
        "Images a second of both processes, which stay; the epoch that starts them is not counted.",
        "",
        f"Pillow {ran['pillow']} and torch {ran['torch']} for all; webdataset {ran['webdataset']} (numpy"
        f" {ran['numpy']}), mosaicml-streaming {mosaicml['mosaicml-streaming']} (numpy {mosaicml['numpy']}), litdata"
        f" {litdata['litdata']} (numpy {litdata['numpy']}). Peers decode the JPEG whole, as their documentation"
        " does, and reduce it by box; helped, by the line of Pillow's `draft` with which t2f-dist decodes. All put"
        " pictures into a batch by the same code, but for t2f-dist, which has its own."
        f" t2f-dist's shards, with their index and small file, take more than webdataset's: {more}.",
    ]


def _corpora() -> str:
    texts = [f"{count:,} samples of {corpus} px in shards of {shard}" for corpus, (count, shard) in CORPORA.items()]
    return f"{', '.join(texts)}, in windows of {WINDOW} shards"


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Turns of each at each stage.")
@click.option("--seconds", default=0.8, show_default=True, help="Of each measurement, at least; whole epochs.")
@click.option("--quick", is_flag=True, help="One round of an epoch or more; README.md stays as it is.")
def main(rounds: int, seconds: float, quick: bool) -> None:
    """Measure, print the tables, and write them into benchmarks/README.md."""
    rounds, seconds = (1, 0.1) if quick else (rounds, seconds)
    found: Found = {}
    measure(found, CELLS, [max(environment.cores())], rounds, seconds)
    measure(found, SHARED, sorted(environment.cores())[:2], rounds, seconds)
    lines = report(found, rounds, seconds)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
