"""The processes of a launch: who is here, on which device, and how they agree on small things."""

from __future__ import annotations

import os
import signal
import struct
import zlib
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor

from t2f_dist.training.growth import Phase
from t2f_dist.training.launch import launcher, rendezvous
from t2f_dist.training.launch.bound import EXCHANGES_WAIT, longest

DEVICES = Path("/dev")
LAUNCHER_GONE = 1000  # beside the numbers of signals
LAUNCHER_KILLED = "a launcher was killed"  # of this host or another


class Ranks:
    """The ranks of this launch, joined. All of them construct it together.

    `store` is shared by the ranks of this attempt alone, and this process's other threads may use it; None where the
    ranks were not joined here.

    timeout_seconds: how long to wait for the others to come. Exchanges wait twice as long as a rank may stay in its
    longest phase.
    Raises ValueError where the launcher started several processes that do not see each other, or torch cannot use the
    GPUs that are here, and rendezvous.Absent where some did not come.
    """

    def __init__(self, timeout_seconds: int):
        timeout = timedelta(seconds=EXCHANGES_WAIT * longest(timeout_seconds))
        _see_gpus()  # before ranks meet: some would speak NCCL, and some gloo
        attempt = rendezvous.join(timeout_seconds, timeout)
        self.store: dist.Store | None = attempt.store if attempt else None
        self.num_hosts = attempt.num_hosts if attempt else 1
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="no",  # what a launch file says would win else; precision is ours, for it changes weights
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
        )
        self.rank = accelerator.process_index
        self.world_size = accelerator.num_processes
        self.device = accelerator.device
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != self.world_size:
            raise ValueError(
                f"the launcher started {launched} ranks, but rank {os.environ.get('RANK', '?')} sees {self.world_size}:"
                " launch with `accelerate launch --config_file launch/....yaml -m t2f_dist.train ...`"
            )
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if self.device.type == "cuda" and local > torch.cuda.device_count():
            raise ValueError(
                f"{local} ranks on a machine with {torch.cuda.device_count()} GPUs: launch with --num_processes"
                f" {torch.cuda.device_count()} a machine"
            )
        # Small agreements go over gloo on the CPU: no wait for the GPU, and apart from the gradients' order.
        self.control: dist.ProcessGroup | None = None
        if self.world_size > 1:
            self.control = rendezvous.new_group(self.rank, timeout_seconds, timeout)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def describe(self) -> str:
        # launch/cpu.yaml hides the GPUs with ids of -1; where nothing hides them, they were perhaps expected.
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("-1")
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        where += "" if self.device.type == "cuda" or hidden else " (no GPU found)"
        threads = torch.get_num_threads()
        backend = dist.get_backend() if self.world_size > 1 else "no exchange"
        backend += f", {self.num_hosts} hosts" if self.num_hosts > 1 else ""
        return f"world size {self.world_size} ({backend}), {where}, {threads} thread{'s' * (threads > 1)} a rank"

    def barrier(self) -> None:
        if self.control is not None:
            dist.barrier(self.control)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks of float64 [K], on the CPU."""
        if self.control is not None:
            dist.all_reduce(values, group=self.control)
            values /= self.world_size
        return values

    def gather(self, values: Tensor) -> Tensor:
        """float64 [K] of each rank -> [ranks, K], on the CPU."""
        if self.control is None:
            return values[None]
        gathered = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(gathered, values, group=self.control)
        return torch.stack(gathered)

    def broadcast(self, number: int) -> int:
        """Rank 0's number on all ranks."""
        holder = torch.tensor([number])
        if self.control is not None:
            dist.broadcast(holder, src=0, group=self.control)
        return int(holder)

    def check_same(self, text: str, what: str) -> None:
        """Raise ValueError, on all ranks, where `text` is not the same on all of them. All ranks call."""
        digests = self.gather(torch.tensor([float(zlib.crc32(text.encode()))], dtype=torch.float64))[:, 0].tolist()
        odd = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if odd:
            raise ValueError(f"{what} of ranks {odd} differ from rank 0's: give every machine the same files and flags")

    def leave(self) -> None:
        """Meet, then part: a rank that left early would break the others' last exchange."""
        if dist.is_initialized():
            self.barrier()
            dist.destroy_process_group()


def _see_gpus() -> None:
    """Raise ValueError where this machine shows GPUs, and torch cannot use them: a CPU would take days for hours."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("-1")
    if hidden or torch.cuda.is_available() or not any(DEVICES.glob("nvidia[0-9]*")):
        return
    raise ValueError(
        f"torch {torch.__version__} cannot use the GPUs of this machine: it needs a driver for CUDA"
        f" {torch.version.cuda} (nvidia-smi says for which the driver is), or, to train on the CPU,"
        " CUDA_VISIBLE_DEVICES=-1"
    )


class Agreement:
    """Each step, without waiting: has any rank been asked to stop, and are all at the same place in the schedule?

    The answer to one step's question is read at the next, so it costs no round trip, and all ranks act on it at the
    same step. SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask to stop, and so does the death of the launcher; they may come to
    one rank or to all, once or often.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self._asked = 0  # number of the signal that this rank received
        self._pending: tuple[Any, Tensor] | None = None
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = number

    def stop(self, images_seen: int, phase: Phase) -> str | None:
        """Why all ranks stop now, such as "SIGTERM received", or None. All ranks call it at each step.

        Raises RuntimeError where the ranks are at different places of the schedule.
        """
        place = struct.pack("<qiidd", images_seen, phase.resolution, phase.batch_size, phase.alpha,
                            phase.learning_rate_factor)  # fmt: skip
        digest = zlib.crc32(place)
        if launcher.is_gone():
            self._asked = LAUNCHER_GONE  # killed without a word to its ranks: nobody else would end them
        question = torch.tensor([self._asked, digest, -digest])
        answer = self._exchange(question)
        if answer is None:
            return None
        asked, highest, lowest = (int(value) for value in answer)
        if highest != -lowest:
            raise RuntimeError(
                f"the ranks are at different places of the schedule; rank {self.ranks.rank} is at {images_seen} images,"
                f" resolution {phase.resolution}, alpha {phase.alpha}"
            )
        if asked == LAUNCHER_GONE:
            return LAUNCHER_KILLED
        return f"{signal.Signals(asked).name} received" if asked else None

    def _exchange(self, question: Tensor) -> Tensor | None:
        """The answer to the question before this one."""
        if self.ranks.control is None:
            return question
        before, self._pending = self._pending, None
        work = dist.all_reduce(question, op=dist.ReduceOp.MAX, group=self.ranks.control, async_op=True)
        self._pending = (work, question)
        if before is None:
            return None
        before[0].wait()
        return before[1]

    def settle(self) -> None:
        """Wait for the last question. All ranks call."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
