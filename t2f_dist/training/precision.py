"""What is computed in which number format.

Weights, optimizer state, moving average, encoders, statistics (pixel norm, batch norm, minibatch standard deviation),
logits' losses, penalty norms and images are float32 in every mixed mode; convolutions and linear layers run in the half
format.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

FORMATS = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The number formats of a run on a device.

    Raises:
        ValueError: fp16 on a CPU, which would silently be computed in another format.
    """

    def __init__(self, name: str, device: torch.device):
        if name == "fp16" and device.type != "cuda":
            raise ValueError(
                f"train.precision fp16 needs a GPU, and this run is on the {device.type}: use bf16 or fp32"
            )
        if device.type == "cuda":
            # fp32 is meant: TF32 has ten bits of mantissa. And a run that is killed must be able to repeat itself, but
            # for geometric augmentation, whose gradient a GPU adds up in any order.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
        self.device = device
        self.compute = FORMATS[name]
        self.weights = torch.float64 if name == "fp64" else torch.float32
        self.needs_scaler = name == "fp16"

    def autocast(self) -> AbstractContextManager[object]:
        """For the forward passes of the networks."""
        if self.compute == self.weights:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.compute)

    def scaler(self) -> torch.amp.GradScaler:
        """One a network: an overflow in one must not change the step of the other."""
        return torch.amp.GradScaler(self.device.type, enabled=self.needs_scaler)
