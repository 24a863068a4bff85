"""Where a run is written down: a console line, metrics.jsonl, grids, and wandb behind a tracker. Main rank only.

Training neither waits nor dies for any of them. A disk that is full or away costs a warning; figures wait in memory
until they can be written, grids are lost.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import click
from PIL import Image

from t2f_dist.config.redaction import said, without_secrets
from t2f_dist.config.schema import Config
from t2f_dist.training.growth import Phase
from t2f_dist.training.run.meter import Report
from t2f_dist.training.run.tracker import Tracker

UNWRITTEN_MAX = 100_000  # lines of figures that wait for a disk; then the oldest are lost
OLD_NAMES = {"dryrun": "offline", "run": "online"}  # of wandb's modes


class Log:
    """The log of one run's folder, which it continues where there is one.

    Raises ValueError where `wandb.mode: online` is asked for, and wandb refuses within seconds.
    """

    def __init__(self, run: Path, config: Config, images_seen: int):
        self.run = run
        self.total_images = config.total_images
        self.path = run / "metrics.jsonl"
        self._unwritten: deque[str] = deque(maxlen=UNWRITTEN_MAX)
        self._failing: set[str] = set()
        self.back_to(images_seen)
        mode = config.wandb.mode
        mode = os.environ.get("WANDB_MODE") or mode if mode == "auto" else mode
        mode = OLD_NAMES.get(mode, mode)
        self._tracker: Tracker | None = None
        if mode != "disabled":
            try:
                self._tracker = Tracker(run, config, mode)
            except OSError as error:
                self._fails("wandb", error, "this run is logged without it")

    def say(self, line: str) -> None:
        """One line on the console, without what may not be written down."""
        with suppress(OSError):  # a console that is a file on a full disk, or a pipe that nobody reads
            click.echo(without_secrets(line))

    def back_to(self, images_seen: int) -> None:
        """The run goes on from here: what it will write again is forgotten."""
        self._unwritten = deque((line for line in self._unwritten if _images(line) <= images_seen), UNWRITTEN_MAX)
        self._started = time.perf_counter()
        self._first_images = images_seen
        try:
            _forget_after(self.path, images_seen)
        except OSError as error:
            self._fails(self.path.name, error, "it keeps lines that are written again")

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
        self._unwritten.append(json.dumps(figures) + "\n")
        self._write_figures()
        self.say(self._console(images_seen, phase, report))
        if self._tracker:
            self._tracker.send("figures", figures=figures)
            self._say_all(self._tracker.news())

    def alert(self, title: str, text: str, level: Literal["INFO", "WARN", "ERROR"] = "WARN") -> None:
        """Something that a person should look at: a console line, and an alert of wandb, which may send mail."""
        self.say(f"{'note' if level == 'INFO' else 'warning' if level == 'WARN' else 'error'}: {title}: {said(text)}")
        if self._tracker:
            self._tracker.send("alert", title=title, text=said(text), level=level)

    def _write_figures(self) -> None:
        try:
            _append(self.path, "".join(self._unwritten).encode())
        except OSError as error:
            self._fails(self.path.name, error, "its lines are kept, and tried again with each")
            return
        self._unwritten.clear()
        self._works(self.path.name)

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
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            grid.save(temporary, format="PNG")
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            self._fails("grids", error, "this one is lost, the next is tried")
            return
        self._works("grids")
        if self._tracker:
            caption = "\n".join(f"row {row}: {text}" for row, text in enumerate(labels, 1))
            self._tracker.send("grid", images=images_seen, path=str(path.resolve()), caption=caption)

    def preempting(self) -> None:
        """The run is about to end because it was told to, and will go on: to be called before `close`."""
        if self._tracker:
            self._tracker.preempting()

    def close(self, exit_code: int) -> None:
        """End it. Waits for wandb at most tracker.CLOSE_SECONDS, and says what is left to do."""
        if self._unwritten:
            self._write_figures()
        if self._tracker:
            self._say_all(self._tracker.close(exit_code))
            self._tracker = None

    def _say_all(self, lines: list[str]) -> None:
        for line in lines:
            self.say(line)

    def _fails(self, what: str, error: OSError, effect: str) -> None:
        """Warn, once until it works again."""
        if what not in self._failing:
            self._failing.add(what)
            with suppress(OSError):
                click.echo(f"warning: {what} cannot be written ({error.strerror or error}): {effect}", err=True)

    def _works(self, what: str) -> None:
        if what in self._failing:
            self._failing.remove(what)
            self.say(f"{what} can be written again")


def _append(path: Path, content: bytes) -> None:
    """All of it or nothing: half a line would spoil the next. Raises OSError."""
    with open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            written = file.write(content)
            while written < len(content):  # a disk that is all but full takes a part, and then says so
                written += file.write(content[written:])
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


def _images(line: str) -> float:
    """The images that a line of metrics.jsonl is of; of one that a kill cut short, more than any run has."""
    try:
        return int(json.loads(line)["images"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _forget_after(path: Path, images_seen: int) -> None:
    """Drop the lines that a resumed run will write again, and one that a kill cut short."""
    if not path.is_file():
        return
    kept = [
        line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if _images(line) <= images_seen
    ]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)


def _clock(seconds: float) -> str:
    seconds = int(min(seconds, 999 * 3600))
    return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"
