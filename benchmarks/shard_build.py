"""Images a second and core from files to shards: t2f-dist, img2dataset, webdataset's ShardWriter, and the floor.

    python -m benchmarks.shard_build

Each makes JPEGs of quality 95 from the same files and is held to its cores by taskset. A command is run with few and
with many files; the rate is that of the files between, so that what it takes to start is told apart. Runs take turns.
"""

from __future__ import annotations

import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks import pictures, section
from benchmarks.peers import environment

NAME = "shard build"
QUALITY = 95
HOME = section.ROOT / "runs" / "benchmarks"


@dataclass(frozen=True)
class Source:
    """Pictures of `size` pixels into `resolution`; the numbers of files of the two runs."""

    size: int
    resolution: int
    few: int
    many: int


@dataclass(frozen=True)
class System:
    name: str
    environment: str
    script: str
    cores: int = 1
    started: bool = True  # whether a part of its time goes into starting: then it is run twice

    def arguments(self, folder: Path, source: Source, count: int, out: Path) -> list[str]:
        line = [str(folder), str(source.resolution), str(QUALITY)]
        if self.script == "floor_build.py":
            sampling = "4:2:0" if "4:2:0" in self.name else "4:4:4"
            return [*line, sampling, "reduced" if self.name == REDUCED.name else "whole", str(count)]
        line += [str(count), str(out)]
        if self.script == "t2f_dist_build.py":
            return [*line, str(self.cores)]
        return [*line, str(self.cores), "256"] if self.script == "img2dataset_build.py" else line


SOURCES = (Source(250, 128, 800, 3600), Source(512, 256, 400, 1400), Source(1024, 256, 150, 600))
FLOOR = System("decode, resize, encode alone, 4:4:4", "t2f-dist", "floor_build.py", started=False)
REDUCED = System("the same, decoded at a reduced scale", "t2f-dist", "floor_build.py", started=False)
CHEAPER = System("decode, resize, encode alone, 4:2:0", "t2f-dist", "floor_build.py", started=False)
OURS = System("t2f-dist, 1 worker", "t2f-dist", "t2f_dist_build.py")
TWO = System("t2f-dist, 2 workers", "t2f-dist", "t2f_dist_build.py", cores=2)
SHARD_WRITER = System("webdataset.ShardWriter loop", "webdataset", "webdataset_build.py", started=False)
IMG2DATASET = System("img2dataset", "img2dataset", "img2dataset_build.py")
SYSTEMS = (FLOOR, REDUCED, CHEAPER, OURS, TWO, SHARD_WRITER, IMG2DATASET)


@dataclass
class Found:
    rates: list[float]  # images a second, all cores together
    busy: list[float]  # images a second of processor time: what would be left of others' load
    starts: list[float]  # seconds that do not depend on the number of files


def measure(system: System, source: Source, folder: Path, found: Found) -> None:
    def seconds(count: int) -> tuple[float, float]:
        out = HOME / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        arguments = system.arguments(folder, source, count, out / "shards" if system != SHARD_WRITER else out)
        cores = sorted(environment.cores())[-system.cores :]
        answer = environment.run(system.environment, system.script, *arguments, cores=cores)
        shutil.rmtree(out)
        assert answer["images"] == count, f"{system.name} made {answer['images']} of {count}"
        return answer["seconds"], answer["cpu_seconds"]

    long, long_cpu = seconds(source.many)
    short, short_cpu = seconds(source.few) if system.started else (0.0, 0.0)
    between = source.many - (source.few if system.started else 0)
    found.rates.append(between / (long - short))
    found.busy.append(between / (long_cpu - short_cpu))
    found.starts.append(max(0.0, long - source.many / found.rates[-1]))


def table(found: dict[tuple[Source, System], Found]) -> list[str]:
    rows = []
    for system in SYSTEMS:
        row = [system.name, str(system.cores)]
        for source in SOURCES:
            here = found[source, system]
            row.append(section.spread([rate / system.cores for rate in here.rates]))
            row.append(f"{_middle(found, source, system) / _middle(found, source, FLOOR):.0%}")
        row.append(section.spread([each for source in SOURCES for each in found[source, system].starts]))
        rows.append(row)
    header = ["", "cores"]
    for source in SOURCES:
        header += [f"{source.size} to {source.resolution} px", "of the floor"]
    return section.table([*header, "seconds to start and end"], rows)


def _middle(found: dict[tuple[Source, System], Found], source: Source, system: System) -> float:
    """The median rate a core."""
    return statistics.median(found[source, system].rates) / system.cores


def report(found: dict[tuple[Source, System], Found], rounds: int) -> list[str]:
    ratios = [
        f"{_middle(found, source, OURS) / _middle(found, source, IMG2DATASET):.2f} times at {source.size} px"
        for source in SOURCES
    ]
    shares = [
        f"{_middle(found, source, system) / _middle(found, source, REDUCED):.0%} at {source.size} px"
        + (" with two workers" if system is TWO else "")
        for system in (OURS, TWO)
        for source in SOURCES
    ]
    peers = environment.versions("img2dataset", ["img2dataset", "opencv-python-headless", "webdataset"])
    ours = environment.versions("webdataset", ["pillow", "webdataset"])
    return [
        f"{section.machine()}; {section.medians(rounds)}. Images a second and core; JPEG of quality"
        f" {QUALITY}; files of {_kilobytes()} on average, in the page cache.",
        "",
        *table(found),
        "",
        f"t2f-dist, one worker, against img2dataset: {', '.join(ratios)}. Against the floor that decodes as it does,"
        f" a core: {', '.join(shares)}.",
        "",
        f"Pillow {ours['pillow']}; webdataset {ours['webdataset']}; img2dataset {peers['img2dataset']} with OpenCV"
        f" {peers['opencv-python-headless']} and webdataset {peers['webdataset']}, center_crop, 256 threads, addresses"
        " file://. img2dataset and the cheaper floor write 4:2:0, the others 4:4:4.",
    ]


def _kilobytes() -> str:
    texts = []
    for source in SOURCES:
        sizes = [path.stat().st_size for path in _folder(source).rglob("*.jpg")]
        texts.append(f"{statistics.mean(sizes) / 1000:.0f}")
    return f"{', '.join(texts)} kB at {', '.join(str(source.size) for source in SOURCES)} px"


def _folder(source: Source) -> Path:
    return pictures.folder(HOME, source.size, source.many)


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each.")
@click.option("--quick", is_flag=True, help="One round; README.md stays as it is.")
def main(rounds: int, quick: bool) -> None:
    """Measure, print the table, and write it into benchmarks/README.md."""
    rounds = 1 if quick else rounds
    folders = {source: _folder(source) for source in SOURCES}
    found = {(source, system): Found([], [], []) for source in SOURCES for system in SYSTEMS}
    for number in range(rounds):
        for source in SOURCES:
            for system in SYSTEMS:
                here = found[source, system]
                measure(system, source, folders[source], here)
                click.echo(
                    f"round {number + 1} of {rounds}: {source.size} px, {system.name}:"
                    f" {here.rates[-1] / system.cores:.0f} images a second and core,"
                    f" {here.busy[-1]:.0f} a second of processor time"
                )
    lines = report(found, rounds)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
