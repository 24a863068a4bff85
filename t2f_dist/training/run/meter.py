"""What a run measures between two log lines, on this rank and over all ranks."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from t2f_dist.training.launch.ranks import Ranks

GIBI = 1024**3


@dataclass(frozen=True)
class Spread:
    """A quantity over the ranks."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class Report:
    """One log line. Seconds are per step; memory is the peak so far, of the GPU where there is one."""

    means: dict[str, float]
    images_per_second: float
    data_wait_share: float
    num_damaged: int
    step_seconds: Spread
    work_seconds: Spread
    data_wait_seconds: Spread
    memory_gib: Spread
    # By its own work: waiting for the others is not held against a rank. Work is the CPU time of the training thread,
    # so that on GPUs it is the launching of kernels, and a throttled GPU is not seen.
    slowest_rank: int

    @property
    def straggler(self) -> int | None:
        """The slowest rank, where it works markedly longer than the others."""
        return self.slowest_rank if self.work_seconds.maximum > 1.2 * self.work_seconds.median else None

    def flat(self) -> dict[str, float]:
        """All figures by name."""
        figures = dict(self.means)
        for name in ("images_per_second", "data_wait_share", "num_damaged", "slowest_rank"):
            figures[f"speed/{name}"] = getattr(self, name)
        for name in ("step_seconds", "work_seconds", "data_wait_seconds", "memory_gib"):
            spread = getattr(self, name)
            for part in ("minimum", "median", "maximum"):
                figures[f"ranks/{name}_{part}"] = getattr(spread, part)
        return figures


class Meter:
    """Sums of the terms of each step, as tensors on the device: nothing waits for the GPU before `report`.

    A term that is not finite, as in a step that was left out, has no part in its mean.
    """

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.num_damaged = 0  # on this rank, since the start of the process
        self._start()

    def _start(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # terms that come together -> float64 [2, K]: sum, how many
        self._started = time.perf_counter()
        self._images = self._steps = 0
        self._wait = self._work = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for data."""
        before = time.perf_counter()
        yield
        self._wait += time.perf_counter() - before

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around a step. CPU time of this thread, so that waiting in an exchange is not counted as work."""
        before = time.thread_time()
        yield
        self._work += time.thread_time() - before

    def add(self, metrics: dict[str, Tensor], batch_size: int) -> None:
        names, values = tuple(metrics), torch.stack([value.double() for value in metrics.values()])
        finite = values.isfinite()
        sums = torch.stack([values.masked_fill(~finite, 0), finite.double()])
        self._sums[names] = self._sums[names] + sums if names in self._sums else sums
        self._images += batch_size
        self._steps += 1

    def report(self) -> Report:
        """The means over all ranks since the last report. All ranks call it at the same step.

        A term that was never finite is not among them.
        """
        names = sorted({name for together in self._sums for name in together})
        own = torch.zeros(len(names), 2, dtype=torch.float64)
        for together, sums in self._sums.items():
            own[[names.index(name) for name in together]] += sums.cpu().T
        sums, counts = self.ranks.mean(own).T.tolist()
        seconds = time.perf_counter() - self._started
        steps = max(1, self._steps)
        memory = _memory_gib(self.ranks.device)
        figures = [seconds / steps, self._work / steps, self._wait / steps, memory, self.num_damaged]
        table = self.ranks.gather(torch.tensor(figures, dtype=torch.float64))
        spreads = [Spread(float(c.min()), float(c.quantile(0.5)), float(c.max())) for c in table.T[:4]]
        report = Report(
            means={name: sum_ / count for name, sum_, count in zip(names, sums, counts, strict=True) if count},
            images_per_second=self._images / seconds,
            data_wait_share=float((table[:, 2] / table[:, 0]).mean()),
            num_damaged=int(table[:, 4].sum()),
            step_seconds=spreads[0],
            work_seconds=spreads[1],
            data_wait_seconds=spreads[2],
            memory_gib=spreads[3],
            slowest_rank=int(table[:, 1].argmax()),
        )
        self._start()
        return report


def _memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIBI
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIBI
