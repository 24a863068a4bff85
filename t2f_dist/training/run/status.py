"""RUN/status.json: how a run stands. Launchers turn every failing exit code into 1, so the outcome stands here."""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from t2f_dist.config.redaction import said

# running: also what a killed run leaves behind. preempted and a killed run go on when started again.
Outcome = Literal["running", "finished", "preempted", "failed"]

# Exit codes of a rank. Launchers turn each but 0 into 1.
EXIT_FAILED = 1
EXIT_PREEMPTED = 3  # a signal came, a checkpoint was saved
EXIT_HUNG = 4  # nothing moved for train.timeout_seconds: a rank hangs, or the network is cut

LINE = 400  # characters of a refusal, at most


def now() -> str:
    """The time as status.json writes it: later times sort after earlier ones."""
    return time.strftime("%FT%TZ", time.gmtime())


def read(run: Path) -> dict[str, Any]:
    """The status of a run's folder; empty where there is none yet, or none that can be read."""
    try:
        content = json.loads((run / "status.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write(run: Path, outcome: Outcome, reason: str, *, retry: bool = False, **figures: Any) -> None:
    """Replace status.json, whole or not at all. `figures` are kept until they are given anew; a refusal is not.

    Beside them stands `launch`, the scheduler's job that writes (T2F_LAUNCH), where there is one.
    retry: of a run that failed, whether the same command is worth starting again with nothing mended.
    """
    content = read(run) | figures | {"outcome": outcome, "reason": said(reason), "updated": now()}
    content.pop("refused", None)
    content.pop("retry", None)
    if outcome in ("failed", "preempted"):
        content["retry"] = retry or outcome == "preempted"
    _replace(run, content)


def note_refusal(run: Path, reason: str) -> None:
    """Write down, beside a status that stands as it is, when and why a later launch was refused: one short line."""
    line = said(f"{now()} {reason}")
    _replace(run, read(run) | {"refused": line if len(line) <= LINE else f"{line[: LINE - 3]}..."})


def _replace(run: Path, content: dict[str, Any]) -> None:
    content.pop("launch", None)  # whose words these are: a job that was refused must not take them for its own
    if launch := os.environ.get("T2F_LAUNCH"):
        content["launch"] = launch
    # Ranks may write at the same time, and pods have the same numbers of processes.
    temporary = run / f".status.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, run / "status.json")
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
