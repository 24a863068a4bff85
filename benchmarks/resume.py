"""Going on at 90 % of an epoch: seconds until the first batch, and what is read for it, of each loader.

    python -m benchmarks.resume

Each by its own documented means: t2f-dist starts at a position; MosaicML Streaming and LitData load the state that
their loaders gave after going there; webdataset has none, so that all before it is read again, undecoded. A new process
each time, the files out of the page cache, imports not counted.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks import corpora, section
from benchmarks.peers import environment

NAME = "resume"
RESOLUTION = 128
SAMPLES = 20_480
POSITION = SAMPLES * 9 // 10 // 64 * 64
SCRIPTS = {
    "t2f-dist": "t2f_dist_load.py",
    "webdataset": "webdataset_load.py",
    "mosaicml-streaming": "mosaicml_load.py",
    "litdata": "litdata_load.py",
}
SHOWN = {
    "t2f-dist": "t2f-dist, with all that training draws",
    "webdataset": "webdataset, reading again",
    "mosaicml-streaming": "MosaicML Streaming",
    "litdata": "LitData",
}


def measure(name: str, folder: Path, state: Path) -> dict[str, float]:
    cores = [max(environment.cores())]
    if name in ("t2f-dist", "webdataset"):
        where = str(POSITION)
    else:
        where = str(state / f"{name}.json")
        if not Path(where).exists():
            environment.run(name, SCRIPTS[name], "state", str(folder), str(POSITION), where, cores=cores)
    return environment.run(name, SCRIPTS[name], "resume", str(folder), str(RESOLUTION), where, cores=cores)


def report(found: dict[str, list[dict[str, float]]], rounds: int) -> list[str]:
    rows = []
    for name, measured in found.items():
        seconds = section.spread([each["seconds"] for each in measured])
        asked = section.spread([each["asked"] / 1e6 for each in measured])
        from_disk = section.spread([each["from_disk"] / 1e6 for each in measured])
        rows.append([SHOWN[name], seconds, asked, from_disk])
    return [
        f"{section.machine()}; median of {rounds} rounds (lowest-highest); {SAMPLES:,} samples of {RESOLUTION} px, a"
        f" batch of 64 at sample {POSITION:,}.",
        "",
        *section.table(["", "seconds", "MB asked for by read calls", "MB from the disk"], rows),
    ]


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Processes of each.")
@click.option("--quick", is_flag=True, help="One round; README.md stays as it is.")
def main(rounds: int, quick: bool) -> None:
    """Measure, print the table, and write it into benchmarks/README.md."""
    rounds = 1 if quick else rounds
    folders = corpora.stored(RESOLUTION, SAMPLES)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SCRIPTS}
    with tempfile.TemporaryDirectory() as state:
        for number in range(rounds):
            for name, measured in found.items():
                measured.append(measure(name, folders[name], Path(state)))
                last = measured[-1]
                click.echo(
                    f"round {number + 1} of {rounds}: {name}: {last['seconds']:.2f} s, {last['asked'] / 1e6:.1f} MB"
                    f" asked for, {last['from_disk'] / 1e6:.1f} MB from the disk"
                )
    lines = report(found, rounds)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
