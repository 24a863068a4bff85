"""`t2f-dist checkpoints`: which checkpoints a run has, and whether they are whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from t2f_dist.cli.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    from t2f_dist.training.checkpoints.archive import Archive, Listed

_UNITS = ("B", "kB", "MB", "GB", "TB")


@click.command(short_help="List the checkpoints of a run, and whether they are whole.")
@click.argument("run", metavar="RUN_OR_URL")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--no-verify",
    is_flag=True,
    help="Do not read the files: only whether they are there, with the bytes that they should have.",
)
def checkpoints(run: str, as_json: bool, no_verify: bool) -> None:
    """List the checkpoints of RUN, the newest first: images, time, size, stage, and whether each is whole.

    RUN is the folder of a run, whose config.yaml says where its checkpoints are; or the folder or URL (s3, gs, hf) in
    which they stand. Every file is read and compared with its sha256. The run may go on meanwhile.

    \b
    t2f-dist checkpoints runs/demo/run
    t2f-dist checkpoints s3://bucket/runs/1 --no-verify
    t2f-dist checkpoints runs/demo/run --json | jq '.checkpoints[] | select(.resumes)'

    The one marked > is where the run would go on from. Exit code 1 where there are checkpoints and none is whole, and
    where there were some and none is left.
    """
    import json

    from t2f_dist.storage import url
    from t2f_dist.training.checkpoints.archive import Archive

    path = url.local(run)
    if path is not None and not path.is_dir():
        raise ValueError(f"{url.shown(run)}: no such folder; give the folder of a run, or where its checkpoints are")
    archive = Archive.named(run)
    rows = survey(archive, verify=not no_verify)
    if as_json:
        click.echo(json.dumps({"place": str(archive), "verified": not no_verify, "checkpoints": rows}, indent=1))
    elif rows:
        click.echo(table(rows))
    elif path is not None and (why := _lacking(path, archive)):
        raise ValueError(why)
    else:
        click.echo(f"{archive}: no checkpoint yet")
    if rows and not any(row["resumes"] for row in rows):
        finished = [row for row in rows if row["state"] != "unfinished"]
        if finished:
            raise ValueError(f"{archive}: none of {counted(len(finished), 'checkpoint')} is whole")


def _lacking(folder: Path, archive: Archive) -> str | None:
    """What is amiss with a folder in which no checkpoint was found; None where a run has just begun."""
    from t2f_dist.training.checkpoints.last_save import LastSave

    if (saved := LastSave.read(folder)) is not None:
        where = "there" if saved.place == str(archive) else f"in {saved.place}"
        return f"{archive} holds no checkpoint, and the run had saved {saved.images:,} images {where}: mount its disk"
    inner = sorted(found.parent for found in folder.glob("*/status.json"))
    if inner and not (folder / "status.json").exists():
        return f"{folder} is no run: did you mean {inner[0]}?"
    return None


def survey(archive: Archive, verify: bool) -> list[dict[str, Any]]:
    """A row a checkpoint, the newest first, as they are printed."""
    from tqdm import tqdm

    everything = archive.listed()
    total = sum(each.num_bytes for each in everything if each.finished)
    rows = []
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="verify", disable=None if verify else True, leave=False
    ) as bar:
        for each in everything:
            if (row := _row(archive, each, bar.update if verify else None)) is not None:
                rows.append(row)
    newest = next((row for row in rows if row["state"] == "valid"), None)
    if newest is not None:
        newest["resumes"] = True
    return rows


def _row(archive: Archive, each: Listed, progress: Any) -> dict[str, Any] | None:
    """None of one that was removed while it was looked at, as a run does that goes on."""
    from t2f_dist.training.checkpoints.archive import DamagedCheckpoint

    row: dict[str, Any] = {"name": each.name, "images": each.images, "bytes": each.num_bytes, "resumes": False}
    row |= {"saved": None, "age_seconds": None, "resolution": None, "stage": None, "alpha": None, "problem": None}
    if not each.finished:
        return row | {"state": "unfinished", "problem": "being written, or left by a save that was cut short"}
    try:
        body = archive.body(each.name)
        row |= _when(archive, body) | _stage(body, each.images)
        if progress is not None:
            archive.verify(each.name, progress)
        else:
            _compare_sizes(each, body)
    except DamagedCheckpoint as error:
        if not any(other.name == each.name and other.finished for other in archive.listed()):
            return None
        return row | {"state": "damaged", "problem": str(error)}
    except ValueError as error:
        return row | {"state": "foreign", "problem": str(error)}
    if each.marked:
        return row | {"state": "marked", "problem": "whole now, but marked: remove its damaged.json to use it"}
    return row | {"state": "valid"}


def _compare_sizes(each: Listed, body: dict[str, Any]) -> None:
    from t2f_dist.training.checkpoints.archive import DamagedCheckpoint

    for file in body["files"]:
        size, expected = each.size(file), body.get("bytes", {}).get(file)
        if size is None:
            raise DamagedCheckpoint(f"{file} is missing")
        if expected is not None and size != expected:
            raise DamagedCheckpoint(f"{file} has {size:,} bytes, was {expected:,}")


def _when(archive: Archive, body: dict[str, Any]) -> dict[str, Any]:
    import time

    saved = body.get("saved")
    if saved is None:
        return {}
    written = time.strftime("%FT%TZ", time.gmtime(saved))
    return {"saved": written, "age_seconds": round(archive.clock() - saved, 1)}


def _stage(body: dict[str, Any], images: int) -> dict[str, Any]:
    """Where in the stages of its own configuration it was saved, counted from 1."""
    start = 0
    stages = body.get("config", {}).get("stages", [])
    for number, stage in enumerate(stages, 1):
        fade, stable = stage.get("fade_images", 0), stage.get("stable_images", 0)
        if images < start + fade + stable or number == len(stages):
            alpha = min(1.0, (images - start) / fade) if fade else 1.0
            return {"stage": f"{number}/{len(stages)}", "resolution": stage.get("resolution"), "alpha": round(alpha, 3)}
        start += fade + stable
    return {}


def table(rows: list[dict[str, Any]]) -> str:
    """Aligned lines."""
    cells = [["", "images", "saved", "age", "size", "stage", "state"]]
    for row in rows:
        stage = "-" if row["stage"] is None else f"{row['stage']}, {row['resolution']} px"
        stage += f", fading in {row['alpha']:.0%}" if row["alpha"] is not None and row["alpha"] < 1 else ""
        images = f"{row['images']:,}" + (f" ({row['name']})" if row["name"].count("-") > 1 else "")
        state = row["state"] + (f": {row['problem']}" if row["problem"] else "")
        mark = ">" if row["resumes"] else ""
        saved, age = row["saved"] or "-", _age(row["age_seconds"])
        cells.append([mark, images, saved, age, _size(row["bytes"]), stage, state])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    right = {1, 3, 4}
    lines = []
    for line in cells:
        padded = [f"{text:>{w}}" if at in right else f"{text:<{w}}" for at, (text, w) in enumerate(zip(line, widths))]
        lines.append("  ".join(padded).rstrip())
    return "\n".join("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines)


def _size(number: float) -> str:
    for unit in _UNITS[:-1]:
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} {_UNITS[-1]}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0:
        return "in the future"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
