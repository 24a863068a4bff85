"""Whether all hosts of a launch see the same folder: else each would have a run of its own without knowing it."""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

import torch

from t2f_dist.training.launch.ranks import Ranks

LOOK_SECONDS = 10.0  # for which a file of another host is looked for: network disks remember for seconds what was there
LOOK_EVERY_SECONDS = 0.2
NAME_BYTES = 64  # of a host, at most
NONE = -1  # no file could be made


def check_shared(path: Path, ranks: Ranks, option: str) -> None:
    """Raise ValueError, on all ranks, where a rank does not see `path` as rank 0 does. All ranks call.

    Where it is not there yet, the nearest folder above it is looked at. Rank 0 makes an empty file there for a moment;
    where it may not, nothing is checked.

    Args:
        option: by which another place is named.
    """
    if ranks.world_size == 1:
        return
    token, made = NONE, None
    if ranks.is_main:
        token, made = _make(path)
    token = ranks.broadcast(token)
    if token == NONE:
        return
    seen = made is not None or _seen(path, token)
    own = bytes([seen]) + socket.gethostname().encode()[:NAME_BYTES].ljust(NAME_BYTES)
    rows = ranks.gather(torch.tensor(list(own), dtype=torch.float64)).to(torch.uint8).tolist()
    if made is not None:
        with suppress(OSError):
            made.unlink()
    blind = sorted({bytes(name).decode(errors="replace").strip() for see, *name in rows if not see})
    if blind:
        hosts = f"host {blind[0]} does" if len(blind) == 1 else f"hosts {', '.join(blind)} do"
        raise ValueError(
            f"{hosts} not see {path} as rank 0 does (it is no shared folder there): put {option} on a disk that all"
            " hosts share"
        )


def _make(path: Path) -> tuple[int, Path | None]:
    token = secrets.randbits(62)
    above = _above(path)
    try:
        (made := above / _name(token)).touch(exist_ok=False)
    except OSError:  # full, read-only, not ours: whoever writes there says so
        return NONE, None
    return token, made


def _seen(path: Path, token: int) -> bool:
    deadline = time.monotonic() + LOOK_SECONDS
    while True:
        above = _above(path)
        for folder in (above.parent, above):  # a network disk looks anew at a folder that is opened
            with suppress(OSError):
                os.scandir(folder).close()
        if (above / _name(token)).exists():
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_EVERY_SECONDS)


def _above(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _name(token: int) -> str:
    return f".seen-{token:016x}.tmp"
