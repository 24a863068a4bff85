"""The folder of a run: who holds it, and what is written into it besides checkpoints and logs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import click

from t2f_dist.config.load import dump
from t2f_dist.config.schema import Config
from t2f_dist.data.batch import Damage
from t2f_dist.models import snapshot
from t2f_dist.storage import url
from t2f_dist.training.checkpoints.saver import explained
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase
from t2f_dist.training.launch import launcher
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.run import status
from t2f_dist.training.run.failure import in_words, worth_a_retry
from t2f_dist.training.run.shared_folder import check_shared

STARTING = "starting"


class RunFolder:
    """Held by one launch at a time, until its main rank ends, also by a kill: two runs in one folder would mix.

    All ranks construct it together. Raises ValueError, on all of them, where another launch holds it, or where not all
    hosts see it, or a local folder of checkpoints; and OSError, in one line, where it cannot be written.

    Attributes:
        ended: why a run that this very launcher started is over, though the launcher starts it again in place: it was
            told to stop, or nothing was mended; else None.
        ending: the main rank writes down how the run ended, and no other rank does: on a disk of the network it might
            read for a minute what stood there before, and write over it.
    """

    def __init__(self, config: Config, ranks: Ranks):
        self.path = Path(config.run)
        self.config = config
        self._ranks = ranks
        self.ending = False
        self._failing = False  # the last status could not be written
        self._lock: IO[str] | None = _locked(self.path) if ranks.is_main else None
        try:
            self._look(ranks)
        except BaseException:
            self.release()
            raise

    def _look(self, ranks: Ranks) -> None:
        """See, on all ranks, whether the folder is theirs, and how the run stands; say that it starts."""
        if not ranks.broadcast(int(self._lock is not None)):
            raise ValueError(
                f"{self.path} is in use by another run: wait for it, or name another folder with --run (if you meant"
                " several ranks, they do not see each other: start them with accelerate launch --config_file"
                " launch/....yaml)"
            )
        check_shared(self.path, ranks, "`run`")
        if self.config.checkpoint.folder and (checkpoints := url.local(self.config.checkpoint.folder)) is not None:
            check_shared(checkpoints, ranks, "checkpoint.folder")
        self._before = status.read(self.path)  # of every rank: a finished run is as it was until training goes on
        over = self._over() if ranks.is_main else 0
        if self._lock and not self._was_finished and not over:
            with _said(self.path):
                status.write(self.path, "running", STARTING, launcher=launcher.identity())
        self.ended = (None, "preempted", "failed")[ranks.broadcast(over)]

    def _over(self) -> int:
        """1: told to stop, 2: failed for good, both under the launcher that starts it now; else 0."""
        before = self._before
        if launcher.identity() is None or before.get("launcher") != launcher.identity() or before.get("retry") is None:
            return 0
        return 1 if before["outcome"] == "preempted" else 0 if before["retry"] else 2

    @property
    def reason(self) -> str:
        """Of the status that was found."""
        return str(self._before.get("reason", ""))

    @property
    def _was_finished(self) -> bool:
        return self._before.get("outcome") == "finished"

    def note(self, outcome: status.Outcome, reason: str, **figures: Any) -> None:
        """Replace the status. Main rank. A full disk costs a warning here: the run ends where a checkpoint is lost.

        What another rank of this launch has failed of stays: this one may not know of it yet.
        """
        if outcome == "running" and status.read(self.path).get("outcome") == "failed":
            return
        try:
            status.write(self.path, outcome, reason, **figures)
        except OSError as error:
            self._warn(f"the status is not written ({error})")
        else:
            self._failing = False

    def _warn(self, line: str) -> None:
        if not self._failing:
            click.echo(f"warning: {line}", err=True)
        self._failing = True

    def fail(self, error: BaseException) -> None:
        """Write down why the run ends, unless another rank was first: it knows the cause, this one maybe the effect."""
        reason = in_words(error, self._ranks.rank)
        if self.ending and not self._ranks.is_main:
            return
        known = status.read(self.path)
        if known.get("outcome") == "running":
            self.note("failed", reason, retry=worth_a_retry(error))
        elif self._was_finished and known == self._before:  # refused before it touched anything
            with suppress(OSError):
                status.note_refusal(self.path, reason)

    def begin(self) -> None:
        """Training starts or goes on: what the folder holds is from now on of this configuration. Main rank.

        Raises OSError, in one line, where it cannot be written.
        """
        with _said(self.path):
            _replace(self.path / "config.yaml", dump(self.config))
            total = self.config.total_images
            status.write(self.path, "running", "training", total_images=total, launcher=launcher.identity())

    def release(self) -> None:
        if self._lock:
            self._lock.close()

    def record_damage(self, damage: tuple[Damage, ...], rank: int) -> None:
        """A line a damaged sample, in a file a rank."""
        try:
            with open(self.path / f"damaged-{rank}.jsonl", "a", encoding="utf-8") as file:
                file.writelines(json.dumps(item._asdict()) + "\n" for item in damage)
        except OSError as error:
            self._warn(f"damaged samples are counted and not written down ({error})")

    def snapshot_path(self, images_seen: int) -> Path:
        return self.path / "snapshots" / f"images-{images_seen:012d}.safetensors"

    def save_snapshot(self, gan: Gan, corpus: snapshot.Corpus, images_seen: int, phase: Phase) -> bool:
        """Write the moving average as it stands, and delete older snapshots than are kept.

        Returns whether it was written: one that cannot be is a warning, and what was written of it is removed.
        """
        taken = snapshot.Snapshot(
            gan.generator_ema, self.config, gan.facts, corpus, images_seen, phase.resolution, phase.alpha
        )
        path = self.snapshot_path(images_seen)
        try:
            snapshot.save(path, taken)
            for old in sorted(path.parent.glob("images-*.safetensors"))[: -self.config.snapshot.keep]:
                old.unlink(missing_ok=True)
        except OSError as error:
            click.echo(f"warning: the snapshot at {images_seen:,} images is not written: {explained(error)}", err=True)
            with suppress(OSError):
                path.with_name(f".{path.name}.tmp").unlink(missing_ok=True)
        return path.is_file()


def note_failure(config: Config, error: Exception, started: str) -> None:
    """Write down a failure of a launch that began at `started` (as status.json writes times) before it held the folder.

    Nothing is written where the launch has written a status itself, where another run holds the folder, or where there
    is no folder. A finished run stays one, with a note.
    """
    path = Path(config.run)
    if not path.is_dir():
        return
    known = status.read(path)
    if max(known.get("updated", ""), known.get("refused", "")) >= started:
        return
    with suppress(OSError, ValueError):  # full, read-only or without locks, which is perhaps the failure itself
        if lock := _locked(path):
            reason = " ".join(str(error).split())
            if known.get("outcome") == "finished":
                status.note_refusal(path, reason)
            else:
                status.write(path, "failed", reason, retry=worth_a_retry(error))
            lock.close()


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """An OSError within becomes one line with the folder and a remedy."""
    try:
        yield
    except OSError as error:
        reason = explained(error, "`run`", "name another folder with --run")
        raise type(error)(f"the folder {path} of the run cannot be written: {reason}") from None


def _locked(path: Path) -> IO[str] | None:
    """The open lock file, or None where another process holds it.

    Raises ValueError where the disk knows no locks, and OSError, in one line, where there can be no file.
    """
    with _said(path):
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / ".lock", "a")  # noqa: SIM115 - held for the whole run
    try:
        # A record lock: unlike flock's, it is not inherited by loader processes, which may outlive a killed rank.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return None
        raise ValueError(
            f"the disk of {path} has no locks ({error.strerror}): mount it with flock, or put `run` on another disk"
        ) from None
    return file


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
