"""Training with a fault in it: run in place of `t2f_dist.train`, it hurts its own process at an exact place.

    T2F_FAULT='{"kind": "kill", "at": "t2f_dist.training.side:Side.step", "rank": 1, "images": 640}' \
        accelerate launch --config_file launch/cpu.yaml -m tests.faults.injected --config configs/demo.yaml

A signal from outside meets a run at some moment; this meets it in the one function that is meant, at the one call. The
function is wrapped and nothing else is changed: what follows is a real death of a real process. T2F_FAULT holds a fault
or a list of them, of the fields of `Fault`. Tests write `launch(config, fault={...})`, of tests.end_to_end.launches.

Where T2F_TRACE names a file, each rank appends a line a step: rank, time in seconds, images seen.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from t2f_dist.train import main
from t2f_dist.training.launch import launcher

if TYPE_CHECKING:  # as the program that this stands for, it is at its first line before torch is imported
    import torch

ERRORS = {error.__name__: error for error in (RuntimeError, ValueError, OSError, MemoryError)}


@dataclass(frozen=True)
class Fault:
    """What happens, and where.

    kind: kill (SIGKILL to itself), stop (SIGSTOP), signal (another, to itself or to the launcher), sleep, raise, nan
        (into a tensor), flip (a bit of a tensor), set (a number of a module, from the start, to `seconds`).
    at: "module:Class.method"; or "module:function", of the module that calls it: it may have its own name for it; or
        "module:NAME", for set.
    rank: None for all of them.
    call: the first is 1; those before `images` do not count. None for all calls, where `once` is false.
    images: that the loop has counted, at least; None for any, also before the loop.
    after: the call, not before it.
    once: in the life of the run: a file `marker`-RANK is left, so that a run that was started again is not hit again.
    tensor: for nan and flip: from an argument of the call, or `result`, by attributes, keys and numbers to a tensor,
        such as "gan.networks.generator.synthesis.to_rgb.4.bias".
    element, bit: for nan and flip: which of the flattened tensor, and which of its bits, 0 the lowest.
    signal, to: for signal.
    seconds: for set, and for sleep; None for ever.
    error: for raise, one of ERRORS; its text is "injected".
    """

    kind: Literal["kill", "stop", "signal", "sleep", "raise", "nan", "flip", "set"]
    at: str
    rank: int | None = None
    call: int | None = 1
    images: int | None = None
    after: bool = False
    once: bool = True
    marker: str = ""
    tensor: str = ""
    element: int = 0
    bit: int = 0
    signal: str = ""
    to: Literal["self", "launcher"] = "self"
    seconds: float | None = None
    error: str = "RuntimeError"


class Injector:
    """Waits for the place of one fault."""

    def __init__(self, fault: Fault, rank: int, seen: Callable[[], int]):
        assert fault.once <= bool(fault.marker), "once in the life of a run needs a marker"
        self.fault = fault
        self.rank = rank
        self.seen = seen
        self.num_calls = 0
        self.launcher = os.getppid()
        if fault.rank in (None, rank):
            self._set() if fault.kind == "set" else self._wrap()

    def _set(self) -> None:
        module, name = self.fault.at.split(":")
        assert isinstance(getattr(importlib.import_module(module), name), int | float), f"{self.fault.at} is no number"
        setattr(importlib.import_module(module), name, self.fault.seconds)

    def _wrap(self) -> None:
        module, path = self.fault.at.split(":")
        *owners, name = path.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        function = inspect.getattr_static(owner, name)
        assert inspect.isfunction(function), f"{self.fault.at} is no plain function"
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            due = self._due()
            arguments = signature.bind(*args, **kwargs).arguments if due else {}
            if due and not self.fault.after:
                self._strike(arguments)
            result = function(*args, **kwargs)
            if due and self.fault.after:
                self._strike({**arguments, "result": result})
            return result

        setattr(owner, name, wrapped)

    def _due(self) -> bool:
        if self.fault.images is not None and self.seen() < self.fault.images:
            return False
        self.num_calls += 1
        if self.fault.call not in (None, self.num_calls):
            return False
        return not (self.fault.once and os.path.exists(self._marker))

    @property
    def _marker(self) -> str:
        return f"{self.fault.marker}-{self.rank}"

    def _strike(self, arguments: dict[str, Any]) -> None:
        fault = self.fault
        if fault.marker:
            with open(self._marker, "a") as file:
                file.write(json.dumps({"time": time.time(), "images_seen": self.seen()}) + "\n")
        print(f"injected: {fault.kind} on rank {self.rank} at {fault.at}, {self.seen()} images", file=sys.stderr)
        sys.stderr.flush()
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.kind == "signal":
            os.kill(os.getpid() if fault.to == "self" else self.launcher, signal.Signals[fault.signal])
        elif fault.kind == "sleep":
            until = time.monotonic() + (float("inf") if fault.seconds is None else fault.seconds)
            while time.monotonic() < until:
                time.sleep(0.05)
        elif fault.kind == "raise":
            raise ERRORS[fault.error]("injected")
        else:
            first, *path = fault.tensor.split(".")
            _hurt(functools.reduce(_part, path, arguments[first]), fault)


def _part(whole: Any, name: str) -> Any:
    if isinstance(whole, dict):
        return whole[name]
    return whole[int(name)] if isinstance(whole, list | tuple) else getattr(whole, name)


def _hurt(tensor: torch.Tensor, fault: Fault) -> None:
    """In place, in any layout of memory."""
    import torch

    tensor = tensor.detach()
    where = tuple(int(index) for index in torch.unravel_index(torch.tensor(fault.element), tensor.shape))
    element = tensor[where].view(1)
    if fault.kind == "nan":
        element.fill_(float("nan"))
    else:
        byte = element.view(torch.uint8)[fault.bit // 8 : fault.bit // 8 + 1]
        byte.bitwise_xor_(1 << fault.bit % 8)


class Place:
    """Where the loop stands, as it tells the other ranks at each step."""

    def __init__(self, rank: int, trace: str | None):
        from t2f_dist.training.launch.ranks import Agreement

        self.images_seen = 0
        stop = Agreement.stop

        def told(agreement: Any, images_seen: int, phase: Any) -> str | None:
            self.images_seen = images_seen
            if trace:
                with open(trace, "a") as file:
                    file.write(f"{rank} {time.time():.3f} {images_seen}\n")
            return stop(agreement, images_seen, phase)

        Agreement.stop = told


def inject(faults: list[Fault], rank: int, trace: str | None = None) -> None:
    """Wrap what the faults name, in this process."""
    place = Place(rank, trace)
    for fault in faults:
        Injector(fault, rank, lambda: place.images_seen)


if __name__ == "__main__":
    launcher.miss()
    read = json.loads(os.environ.get("T2F_FAULT", "[]"))
    wanted = [Fault(**each) for each in (read if isinstance(read, list) else [read])]
    inject(wanted, int(os.environ.get("RANK", "0")), os.environ.get("T2F_TRACE"))
    main()
