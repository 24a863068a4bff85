"""Going on at 90 % of an epoch: seconds until the first batch, and what is read for it, of each loader.

    python -m benchmarks.resume

Each by its own documented means: t2f-dist starts at a position; MosaicML Streaming and LitData load the state that
their loaders gave after going there; webdataset has none, so that all before it is read again, undecoded. A new process
each time, the files out of the page cache, imports not counted.

Before, each loader goes there without a stop, once, and says what its next batch is: the first batch after resuming
has to be that very one, by the sha256 of its pictures and captions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import corpora, section
from benchmarks.peers import environment

NAME = "resume"
RESOLUTION = 128
SAMPLES, SAMPLES_PER_SHARD = 20_480, 512
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


def reach(name: str, folder: Path, state: Path) -> str:
    """Go to the position without a stop, and leave what resuming needs in `state`. Returns the next batch's digest."""
    arguments = ["state", str(folder), str(RESOLUTION), str(POSITION), str(state)]
    return environment.run(name, SCRIPTS[name], *arguments, cores=[max(environment.cores())])["digest"]


def measure(name: str, folder: Path, state: Path) -> dict[str, Any]:
    arguments = ["resume", str(folder), str(RESOLUTION), str(state)]
    return environment.run(name, SCRIPTS[name], *arguments, cores=[max(environment.cores())])


def report(found: dict[str, list[dict[str, Any]]], expected: dict[str, str], rounds: int) -> list[str]:
    rows = []
    for name, measured in found.items():
        seconds = section.spread([each["seconds"] for each in measured])
        asked = section.spread([each["asked"] / 1e6 for each in measured])
        from_disk = section.spread([each["from_disk"] / 1e6 for each in measured])
        same = sum(each["digest"] == expected[name] for each in measured)
        rows.append([SHOWN[name], seconds, asked, from_disk, f"{same} of {rounds}"])
    return [
        f"{section.machine()}; {section.medians(rounds)}; {SAMPLES:,} samples of {RESOLUTION} px, a"
        f" batch of 64 at sample {POSITION:,}. All of them shuffle. The right batch: its pictures and captions have the"
        " sha256 of those that the same loader gives there without a stop.",
        "",
        *section.table(["", "seconds", "MB asked for by read calls", "MB from the disk", "the right batch"], rows),
    ]


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Processes of each.")
@click.option("--quick", is_flag=True, help="One round; README.md stays as it is.")
def main(rounds: int, quick: bool) -> None:
    """Measure, print the table, and write it into benchmarks/README.md."""
    rounds = 1 if quick else rounds
    folders = corpora.stored(RESOLUTION, SAMPLES, SAMPLES_PER_SHARD)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SCRIPTS}
    with tempfile.TemporaryDirectory() as home:
        states = {name: Path(home) / f"{name}.json" for name in SCRIPTS}
        expected = {name: reach(name, folders[name], states[name]) for name in SCRIPTS}
        for number in range(rounds):
            for name, measured in found.items():
                measured.append(measure(name, folders[name], states[name]))
                last = measured[-1]
                click.echo(
                    f"round {number + 1} of {rounds}: {name}: {last['seconds']:.2f} s, {last['asked'] / 1e6:.1f} MB"
                    f" asked for, {last['from_disk'] / 1e6:.1f} MB from the disk,"
                    f" {'the right' if last['digest'] == expected[name] else 'ANOTHER'} batch"
                )
    lines = report(found, expected, rounds)
    click.echo("\n".join(lines))
    if not quick:
        section.write(NAME, lines)


if __name__ == "__main__":
    main()
