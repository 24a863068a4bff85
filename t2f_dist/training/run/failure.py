"""Why a rank ends, in a line, and whether the same command is worth starting again with nothing mended."""

from __future__ import annotations

import re
from itertools import pairwise

import torch
from torch.distributed import DistBackendError, DistError

from t2f_dist.training.fingerprint import RanksDiffer

BROKEN = ("connection closed", "connection reset", "broken pipe")
# NCCL raises one type for all that befalls it, and ends its text with the cause ("Last error:"). These are of others.
OF_OTHERS = (*BROKEN, "ncclremoteerror", "timeout", "timed out", "aborted")
LAST_ERROR = "last error:"
WHERE = re.compile(r"^\[[^\]]*\.(cc|cpp|h):\d+\] ")  # in a library's source
LINE = 300  # characters of what a library says, at most
NO_MEMORY = "can't allocate memory"  # of the CPU


def lost_the_others(error: BaseException) -> bool:
    """Whether an exchange broke because another rank is gone: that one knows the cause."""
    text = str(error).lower()
    if isinstance(error, DistBackendError):
        return any(word in text for word in OF_OTHERS)
    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "nccl", *BROKEN))
    )


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and NO_MEMORY in str(error)
    )


def is_foreseen(error: BaseException) -> bool:
    """Whether its line says all there is to say: no fault of the program, whose place is of interest."""
    exchange = isinstance(error, DistError) or lost_the_others(error)
    return isinstance(error, ValueError | OSError) or exchange or out_of_memory(error)


def in_words(error: BaseException, rank: int | str) -> str:
    """One line of why a rank ends."""
    if lost_the_others(error):
        return f"rank {rank} lost the others ({_said(error)}): one of them was killed, or says itself why"
    if out_of_memory(error):
        return (
            f"rank {rank} is out of memory ({_said(error)}): set or lower train.batch_per_gpu_max, by which a rank"
            " takes its share of a batch in parts"
        )
    if isinstance(error, DistError):
        return f"rank {rank} cannot exchange with the others: {_said(error)}"
    text = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def worth_a_retry(error: BaseException) -> bool:
    """Whether the same command may well succeed with nothing mended: not where it was refused, or the numbers fail."""
    return isinstance(error, RanksDiffer) or not isinstance(error, ValueError | FileNotFoundError | PermissionError)


def _said(error: BaseException) -> str:
    """The first line of what a library says, and of NCCL's the last error."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    causes = [after for line, after in pairwise(lines) if line.lower().startswith(LAST_ERROR)]
    return ": ".join(WHERE.sub("", line)[:LINE] for line in [lines[0], *causes[:1]])
