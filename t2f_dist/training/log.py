"""Where a run is written down: a console line, metrics.jsonl, wandb (known to this module alone). Main rank only."""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

import click
import wandb
from PIL import Image

from t2f_dist.config.schema import Config
from t2f_dist.training import status
from t2f_dist.training.growth import Phase
from t2f_dist.training.meter import Report


class Log:
    """The log of one run's folder, which it continues where there is one."""

    def __init__(self, run: Path, config: Config, images_seen: int):
        self.run = run
        self.total_images = config.total_images
        self.path = run / "metrics.jsonl"
        _forget_after(self.path, images_seen)
        self._started = time.perf_counter()
        self._first_images = images_seen
        self._wandb = _start_wandb(run, config)

    def say(self, line: str) -> None:
        click.echo(line)

    def write(self, images_seen: int, phase: Phase, report: Report, held_out: dict[str, float]) -> None:
        """One log line in each place."""
        figures: dict[str, Any] = {
            "images": images_seen,
            "schedule/resolution": phase.resolution,
            "schedule/alpha": phase.alpha,
            "schedule/batch_size": phase.batch_size,
            "schedule/learning_rate_factor": phase.learning_rate_factor,
            **report.flat(),
            **held_out,
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")
        self.say(self._console(images_seen, phase, report))
        if self._wandb is not None:
            self._wandb.log(figures)

    def _console(self, images_seen: int, phase: Phase, report: Report) -> str:
        means = report.means
        loss = sum(means.get(f"discriminator/{name}", 0.0) for name in ("real", "fake", "mismatched"))
        left = max(0, self.total_images - images_seen)
        rate = (images_seen - self._first_images) / max(1e-9, time.perf_counter() - self._started)
        adversarial = means.get("generator/adversarial")  # None where the generator has had no turn
        generator = f"{'-':^6}" if adversarial is None else f"{adversarial:6.3f}"
        slow = f"  slowest rank {report.straggler}" if report.straggler is not None else ""
        fading = f" fading in {phase.alpha:4.0%}" if phase.fading else ""
        total = f"{self.total_images:,}"
        return (
            f"{images_seen:>{len(total)},}/{total} images  {phase.resolution:>4} px{fading:15}"
            f"  D {loss:6.3f}  G {generator}"
            f"  {report.images_per_second:6.0f} img/s  data wait {report.data_wait_share:4.1%}"
            f"  eta {_clock(left / max(rate, 1e-9))}{slow}"
        )

    def picture(self, images_seen: int, grid: Image.Image | None, labels: list[str]) -> None:
        """Keep a grid of faces, one row a condition."""
        if grid is None:
            return
        path = self.run / "grids" / f"images-{images_seen:012d}.png"
        path.parent.mkdir(exist_ok=True)
        grid.save(path)
        if self._wandb is not None:
            caption = "\n".join(f"row {row}: {text}" for row, text in enumerate(labels, 1))
            self._wandb.log({"images": images_seen, "grid": wandb.Image(grid, caption=caption)})

    def close(self, exit_code: int) -> None:
        if self._wandb is not None:
            offline, run_id = self._wandb.settings._offline, self._wandb.id
            self._wandb.finish(exit_code=exit_code)
            if offline:  # each start of the run has a folder, with -1 after its name if within a second of another
                self.say(f"wandb: kept offline; to upload: wandb sync {self.run}/wandb/offline-run-*-{run_id}*")
            self._wandb = None


def _start_wandb(run: Path, config: Config) -> Any:
    """The run in wandb, or None where it is disabled. In `auto`, WANDB_MODE decides, then whether there is a key.

    Raises ValueError where `online` is asked for and wandb refuses; `auto` then goes offline, and says so.
    """
    mode = config.wandb.mode
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "")
        if not mode:
            mode = "offline"
            click.echo("wandb: no key found, so this run is logged offline (wandb login, or WANDB_API_KEY, changes it)")
    if mode == "disabled":
        return None
    try:
        return _init_wandb(run, config, mode)
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        if config.wandb.mode != "auto" or mode == "offline":
            raise ValueError(f"wandb {mode}: {reason}; --set wandb.mode=offline logs without it") from None
        click.echo(f"wandb: {reason}; so this run is logged offline")
        return _init_wandb(run, config, "offline")


def _init_wandb(run: Path, config: Config, mode: str) -> Any:
    run_id = status.read(run).get("wandb_id") or secrets.token_hex(4)
    status.write(run, "running", "training", wandb_id=run_id)
    started = wandb.init(
        project=config.wandb.project,
        entity=config.wandb.entity,
        name=config.wandb.name or run.resolve().name,
        tags=list(config.wandb.tags),
        id=run_id,
        resume="allow" if mode == "online" else None,  # offline, wandb cannot resume; the same id joins the parts
        mode=mode,  # pyright: ignore[reportArgumentType]
        dir=run,
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(finish_timeout=120, silent=True, console="off"),
    )
    # Time is images, and no `step` is given: after a resume, replayed images would be dropped as steps of the past.
    started.define_metric("images")
    started.define_metric("*", step_metric="images")
    return started


def _forget_after(path: Path, images_seen: int) -> None:
    """Drop the lines that a resumed run will write again, and one that a kill cut short."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["images"] <= images_seen:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


def _clock(seconds: float) -> str:
    seconds = int(min(seconds, 999 * 3600))
    return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
