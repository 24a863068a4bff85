"""Where a rank stands, as it tells the others: its phase, and whether its main thread works or waits for them."""

from __future__ import annotations

import json
import linecache
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any

import t2f_dist
from t2f_dist.training.launch import ranks

NUM_CALLS = 4  # innermost ones that a line names
WORKS = "works"
WAITS_FOR_GPU = "waits for its GPU"  # and so, perhaps, for the others: exchanges of gradients are kernels
WAITS = "waits for others"
LEFT = "left"

# Calls that return when the GPU is done, by the text of the call.
GPU_CALL = re.compile(r"\b(item|cpu|tolist|numpy|to|synchronize|wait|float|int|bool)\(")
PACKAGE = f"{Path(t2f_dist.__file__).parent}/"
WRAPPER = "/torch/distributed/c10d_logger.py"  # around each exchange; says nothing


@dataclass(frozen=True)
class Place:
    """What a rank writes down about itself, a few times within the bound.

    number: counts the writings, so that readers see whether the rank still answers.
    seconds: for how long the main thread has not come to another phase.
    bound: for how long it may stay there.
    state: one of the constants above; `works` also where nobody has looked yet.
    where: the innermost calls of the main thread; empty while it moves.
    """

    rank: int
    host: str
    pid: int
    number: int
    phase: str
    images_seen: int
    seconds: float
    bound: float
    state: str = WORKS
    where: str = ""

    def packed(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def unpacked(cls, text: bytes) -> Place:
        content: dict[str, Any] = json.loads(text)
        return cls(**{field.name: content[field.name] for field in fields(cls)})

    def __str__(self) -> str:
        where = f": {self.where}" if self.where else ""
        return f'in "{self.phase}" at {self.images_seen:,} images since {self.seconds:.0f} s{where}'

    @property
    def process(self) -> str:
        return f"pid {self.pid} on {self.host}"


def standing(frame: FrameType | None, on_gpu: bool, several: bool) -> tuple[str, str]:
    """(state, where) of the main thread, by its innermost frame; several: there are other ranks to wait for."""
    calls: list[FrameType] = []
    while frame is not None and len(calls) < NUM_CALLS:
        if not frame.f_code.co_filename.endswith(WRAPPER):
            calls.append(frame)
        frame = frame.f_back
    if not calls:
        return WORKS, ""
    where = " < ".join(f"{Path(c.f_code.co_filename).name}:{c.f_lineno} in {c.f_code.co_name}" for c in calls)
    if several and _in_exchange(calls):
        return WAITS, where
    if on_gpu and GPU_CALL.search(_text_of_call(calls[0])):
        return WAITS_FOR_GPU, where
    return WORKS, where


def _in_exchange(calls: list[FrameType]) -> bool:
    """Whether the innermost frames, up to the first of this package, belong to an exchange."""
    code = calls[0].f_code
    if code.co_name == "_engine_run_backward" and "/torch/autograd/" in code.co_filename:
        return True  # in C++, where DDP waits for the gradients of the others
    if code.co_name == "_pre_forward" and "/torch/nn/parallel/" in code.co_filename:
        return True  # likewise, where it tells the others its buckets, once after the first gradients
    for call in calls:
        name = call.f_code.co_filename
        if "/torch/distributed/" in name or name == ranks.__file__:
            return True
        if name.startswith(PACKAGE):
            return False
    return False


def _text_of_call(frame: FrameType) -> str:
    """The source of the call that `frame` is in; empty where it cannot be told."""
    positions = list(frame.f_code.co_positions())
    index = frame.f_lasti // 2
    first, last, start, end = positions[index] if 0 <= index < len(positions) else (None,) * 4
    if first is None or last is None or start is None or end is None:
        return ""
    lines = [linecache.getline(frame.f_code.co_filename, number) for number in range(first, last + 1)]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    return "".join(lines)
