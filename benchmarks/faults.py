"""Faults that are really injected into real launches, and what came of each: outcome, images lost, seconds.

    python -m benchmarks.faults [--chaos runs/chaos.json]

Runs the tests in tests/faults, fast and slow ones, and makes the table of what they saw. Before it, `python -m
tests.chaos --kills 50 --seed 0 --out runs/chaos.json` gives the table of random kills. A fault whose test failed is not
in it. `--record` takes what tests wrote down before, when T2F_FAULTS_RECORD named a file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from benchmarks import section

NAME = "faults"


def inject(tests: str, record: Path) -> str:
    """Run the tests; pytest's last line."""
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    environment = os.environ | {"T2F_FAULTS_RECORD": str(record), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=section.ROOT, env=environment, check=False, stdout=subprocess.PIPE, text=True)
    click.echo(done.stdout[-3000:], err=True)
    return re.sub(r" in [\d.]+s.*", "", done.stdout.strip().splitlines()[-1])


def rows(lines: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each kind and outcome, in the order of the tests."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        found[line["kind"], line["outcome"]].append(line)
    table = []
    for (kind, outcome), each in found.items():
        lost = [line["images_lost"] for line in each if line["images_lost"] is not None]
        seconds = [line["seconds"] for line in each if line["seconds"] is not None]
        images = "-" if not lost else str(max(lost)) if min(lost) == max(lost) else f"{min(lost)}-{max(lost)}"
        table.append([kind, outcome, str(len(each)), images, section.spread(seconds)])
    return table


def chaos(path: Path) -> list[str]:
    """What a run of random kills came to."""
    found = json.loads(path.read_text())
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for kill in found["kills"]:
        kinds[kill["kind"]].append(kill)
    kinds["all"] = found["kills"]
    table = []
    for kind, kills in kinds.items():
        lost = section.spread([kill["images_lost"] for kill in kills if kill["images_lost"] is not None])
        seconds = section.spread([kill["seconds"] for kill in kills if kill["seconds"] is not None])
        table.append([kind, str(len(kills)), lost, seconds])
    same = "to the bit those of the same run in quiet" if found["identical"] else "NOT those of the same run in quiet"
    return [
        f"At random (seed {found['seed']}): {len(found['kills'])} kills in a run of {found['images']:,} images. Its"
        f" weights, moments and figures at the end are {same}.",
        "",
        *section.table(["killed", "times", "images lost", "seconds to the first step after it"], table),
    ]


@click.command()
@click.option("--tests", default="tests/faults", show_default=True, help="Which of them.")
@click.option("--chaos", "chaos_path", type=click.Path(path_type=Path, exists=True), help="Of python -m tests.chaos.")
@click.option("--record", type=click.Path(path_type=Path, exists=True), help="Of tests that ran before.")
@click.option("--quick", is_flag=True, help="README.md stays as it is.")
def main(tests: str, chaos_path: Path | None, record: Path | None, quick: bool) -> None:
    """Inject, print the table, and write it into benchmarks/README.md."""
    with tempfile.TemporaryDirectory() as folder:
        if record is None:
            record = Path(folder) / "record.jsonl"
            record.touch()
            click.echo(inject(tests, record), err=True)
        lines = [json.loads(line) for line in record.read_text().splitlines()]
    header = ["fault", "outcome", "injected", "images lost", "seconds to training again, or to the end"]
    text = [
        f"{section.machine()}; {len(lines)} faults. Two ranks where nothing else is said; a checkpoint every 40 to 120"
        " images, in runs of 128 to 1,600. Seconds include starting Python and torch.",
        "",
        *section.table(header, rows(lines), texts=2),
    ]
    if chaos_path:
        text += ["", *chaos(chaos_path)]
    click.echo("\n".join(text))
    if not quick:
        section.write(NAME, text)


if __name__ == "__main__":
    main()
