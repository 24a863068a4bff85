"""What a training step is measured by, alike for all: time, operations counted, and what the processor can do."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SIDE = 2048  # of the matrices
IMAGE = (16, 128, 32, 32)  # of the convolution


class Operations(TorchDispatchMode):
    """Counts what convolutions and products of matrices take, forward and backward, by torch's own formulas.

    FlopCounterMode has the same, but follows modules by hooks that the gradient of a gradient penalty does not stand.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def measured(step: Callable[[], object], batch_size: int, precision: str, num_steps: int) -> dict[str, float]:
    """`num_steps` after one that is not counted, which counts the operations."""
    with Operations() as counter:
        step()
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    seconds = time.perf_counter() - start
    return {
        "images": num_steps * batch_size,
        "seconds": seconds,
        "flops": counter.total / batch_size,
        "peak": peak(torch.bfloat16 if precision == "bf16" else torch.float32),
    }


def peak(dtype: torch.dtype) -> float:
    """Operations a second of a large product of matrices or a large convolution, whichever is more; the best of three.

    They come from two libraries, of which either may be the slower one on a processor.
    """
    one, other = torch.randn(SIDE, SIDE).to(dtype), torch.randn(SIDE, SIDE).to(dtype)
    image, weight = torch.randn(IMAGE).to(dtype), torch.randn(IMAGE[1], IMAGE[1], 3, 3).to(dtype)
    last = image.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last)
    product = 2 * SIDE**3
    convolution = 2 * 9 * IMAGE[1] * image.numel()
    with torch.no_grad():
        return max(
            _fastest(lambda: torch.mm(one, other), product),
            _fastest(lambda: torch.conv2d(image, weight, padding=1), convolution),
            _fastest(lambda: torch.conv2d(*last, padding=1), convolution),
        )


def _fastest(function: Callable[[], object], operations: int) -> float:
    function()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return operations / best
