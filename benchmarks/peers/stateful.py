"""What is asked of a loader that knows `state_dict` and `load_state_dict`; by a script's function that opens it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ready


class Open(Protocol):
    def __call__(self, folder: str, resolution: int, workers: int = 0, draft: bool = False) -> Any:
        """Resolution 0: pictures as they are stored."""
        ...


def command(write: Callable[..., None], opened: Open) -> None:
    """As `ready.command`."""

    def answer(request: dict) -> dict:
        resolution, workers = request["resolution"], request["workers"]
        loader = opened(request["folder"], resolution, workers, draft=sys.argv[1] == "draft")
        return ready.rate(lambda: loader, request["seconds"], resolution, started=workers > 0)

    def state(folder: str, resolution: int, position: int, path: str) -> dict:
        loader = opened(folder, 0)
        stream = iter(loader)
        for _ in range(position // ready.BATCH):
            next(stream)
        Path(path).write_text(json.dumps(loader.state_dict()))
        return {"digest": ready.digest_undecoded(next(stream), resolution)}

    def resume(folder: str, resolution: int, path: str) -> dict:
        known = json.loads(Path(path).read_text())
        ready.forget(Path(folder))

        def epoch():
            loader = opened(folder, resolution)
            loader.load_state_dict(known)
            return loader

        return ready.first_batch(epoch, resolution)

    ready.command(write, state, resume, answer)
