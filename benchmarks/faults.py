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

# What a test wrote down -> the row that it is counted in; what none fits has a row of its own. Chaos has a table of its
# own.
ROWS = (
    (r"SIGKILL.* two hosts, restart in place, (\w+)", r"a rank killed on one of two hosts, restarts in place (\1)"),
    (r"SIGKILL.* restarts? in place, (\w+)", r"a rank killed, restarts in place (\1)"),
    (r"SIGKILL, rank \d, (.* checkpoint\w*|.* snapshot|snapshot)( of .*)?", "a rank killed while one of them writes"),
    (r"SIGKILL, rank \d, (resuming|first step)", "a rank killed at the start"),
    (r"SIGKILL, rank \d, (last step|end|leaving)", "a rank killed at the end"),
    (
        r"SIGKILL, rank \d, .*",
        "a rank killed anywhere else: in a step, an exchange, a growth, a line of metrics, a grid",
    ),
    (r"SIGKILL, launcher, ranks.*", "everything killed at once"),
    (r"SIGKILL, launcher, .*", "the launcher killed: importing, meeting, connecting, training"),
    (r"SIGUSR1 to (the batch shell|the last task .*)", r"SIGUSR1 by Slurm to \1"),
    (
        r"(SIGTERM|SIGINT|SIGUSR1|SIGHUP) (to|during|before|in|while) .*",
        "a signal that asks to stop, to anyone, anywhere",
    ),
    (r"hang, rank \d, stopped.*", "a rank stopped (SIGSTOP)"),
    (r"hang, checkpoint .*", "a checkpoint that hangs"),
    (r"hang, .*", "a rank hangs: in a step, a report, an exchange, its loader process, a grid, a snapshot, at the end"),
    (r"network lost .*", "the network between two hosts cut, or its packets dropped"),
    (r"host \d of \d dies", "a host dies"),
    (r"checkpoint with .*", "a checkpoint with a flipped bit, or cut short"),
    (r"shard hurt midway.*", "a shard hurt midway"),
    (r"clock .*", "a clock that jumps: an hour ahead, a year back"),
    (r"a NaN in .*", "a NaN in a loss, or in what is drawn from"),
    (r"a flipped bit in .*", "a flipped bit in a weight, or in the average"),
    (r"wandb in the middle: .*", "wandb hangs, fails or goes in the middle"),
    (r"wandb: quiet", ""),
    (r"wandb.*", "wandb nowhere, hanging, failing or refusing"),
    (r"chaos, .*", ""),
)


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
        if row := row_of(line["kind"]):
            found[row, line["outcome"]].append(line)
    table = []
    for (kind, outcome), each in found.items():
        lost = [line["images_lost"] for line in each if line["images_lost"] is not None]
        seconds = [line["seconds"] for line in each if line["seconds"] is not None]
        images = "-" if not lost else str(max(lost)) if min(lost) == max(lost) else f"{min(lost)}-{max(lost)}"
        table.append([kind, outcome, str(len(each)), images, section.spread(seconds)])
    return table


def row_of(kind: str) -> str:
    """Empty where it has none."""
    return next((match.expand(row) for pattern, row in ROWS if (match := re.fullmatch(pattern, kind))), kind)


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
    most = max((line.get("together", 1) for line in lines), default=1)
    together = f", by tests that ran {most} at a time" if most > 1 else ""
    header = ["fault", "outcome", "injected", "images lost", "seconds to training again, or to the end"]
    text = [
        f"{section.machine()}; {len(lines)} faults{together}. Two ranks where nothing else is said; a checkpoint every"
        " 40 to 120 images, in runs of 128 to 1,600; a rank may stand still for 5 s, on two hosts for 15. Seconds are"
        " the median (lowest-highest), and include starting Python and torch.",
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
