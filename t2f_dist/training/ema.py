"""Moving average of weights, measured in images so that it does not depend on batch size."""

from __future__ import annotations

import torch
from torch import nn

from t2f_dist.config import schema


def decay(config: schema.Ema, images_seen: int, batch_size: int) -> float:
    """The share of the old average that is kept in a step that ends at `images_seen + batch_size`.

    With half-life H, 0.5 ** (batch_size / H). H is at most `ramp_fraction` of the images shown so far (Karras et al.
    2020, StyleGAN2-ADA's ramp-up), so the random weights of the start do not linger.
    """
    half_life = float(config.half_life_images)
    if config.ramp_fraction is not None:
        half_life = min(half_life, config.ramp_fraction * (images_seen + batch_size))
    return 0.5 ** (batch_size / half_life)


@torch.no_grad()
def update(average: nn.Module, source: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * source, over parameters of the same names and shapes.

    Buffers, such as running statistics, are averages already, or belong to the weights: they are taken as they are.
    """
    torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), 1 - decay)
    for ours, theirs in zip(average.buffers(), source.buffers(), strict=True):
        ours.copy_(theirs)
