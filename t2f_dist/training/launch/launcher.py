"""Who started this rank: an elastic launcher may start its ranks again in place, and a run may have reasons not to."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

LOOK_SECONDS = 1.0


def identity() -> str | None:
    """The launcher's host, process and start, the same for all that it starts on this host; None without a launcher."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    parent = os.getppid()
    return f"{socket.gethostname()} {parent} {_started(parent)}"


def miss() -> None:
    """From now on the death of an elastic launcher is a SIGTERM to this rank: nobody else would end it.

    Training saves then and leaves. Before it begins, a rank would look for the launcher's store for minutes.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_wait, args=(os.getppid(),), name="launcher", daemon=True).start()


def _wait(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _started(process: int) -> str:
    """Ticks since the machine's start: numbers of processes come again."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # another system than Linux, or the launcher is gone
        return ""
    return stat.rpartition(")")[2].split()[19]  # proc(5): field 22, and the name before may hold anything
