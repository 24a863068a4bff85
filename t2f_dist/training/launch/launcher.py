"""Who started this rank: an elastic launcher may start its ranks again in place, and a run may have reasons not to."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from functools import cache
from pathlib import Path

LOOK_SECONDS = 1.0
ELASTIC = "TORCHELASTIC_RUN_ID"  # in the environment of its ranks, and of what stands between it and them


def identity() -> str | None:
    """The launcher's host, process and start, the same for all that it starts on this host; None without a launcher."""
    if ELASTIC not in os.environ:
        return None
    parent = os.getppid()
    return f"{socket.gethostname()} {parent} {_started(parent)}"


def miss() -> None:
    """From now on the death of an elastic launcher is a SIGTERM to this rank: nobody else would end it.

    Training saves then and leaves. Before it begins, a rank would look for the launcher's store for minutes.
    """
    if ELASTIC in os.environ:
        threading.Thread(target=_wait, args=(_takes_orphans(_parent()),), name="launcher", daemon=True).start()


def is_gone() -> bool:
    """Whether an elastic launcher that was there is there no more: a shell that ends leaves its run in peace."""
    return ELASTIC in os.environ and os.getppid() != _parent()


@cache
def _parent() -> int:
    """As this process first knew it."""
    return os.getppid()


def _takes_orphans(process: int) -> bool:
    """Whether a parent is no launcher, but whoever takes over those whose parent died before they first looked.

    A launcher runs Python, as the first process of a container too; and what a launcher starts to start ranks, such as
    a script that binds them to cores, has its environment. Where neither can be seen, only process 1 takes orphans.
    """
    there = Path(f"/proc/{process}")
    try:
        return not ("python" in (there / "exe").readlink().name or ELASTIC.encode() in (there / "environ").read_bytes())
    except OSError:
        return process == 1


def _wait(gone: bool) -> None:
    while not (gone or is_gone()):
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _started(process: int) -> str:
    """Ticks since the machine's start: numbers of processes come again."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # another system than Linux, or the launcher is gone
        return ""
    return stat.rpartition(")")[2].split()[19]  # proc(5): field 22, and the name before may hold anything
