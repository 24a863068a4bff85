"""Gradient penalties on the discriminator. The norm is that of a whole sample, over all its scales, in float32.

`Images` are one tensor [N, 3, r, r] a resolution, smallest first; `score` maps them to logits [N] and looks at each of
them. Each penalty makes its own forward pass, so that it may be lazy. `scale` multiplies the scores before
differentiation and is divided out of the gradient: fp16 gradients of images would vanish without it (pytorch's
documented recipe for penalties under mixed precision). `mixing` [N] in [0, 1] is each sample's share of real.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Images = tuple[Tensor, ...]
Score = Callable[[Images], Tensor]


def _squared_norm(score: Score, images: Images, scale: float | Tensor) -> Tensor:
    """[N]: the square of d score / d images, summed over a sample's scales, channels and pixels; differentiable."""
    images = tuple(each.detach().requires_grad_() for each in images)
    gradients = torch.autograd.grad(score(images).sum() * scale, images, create_graph=True)
    wide = torch.promote_types(gradients[0].dtype, torch.float32)
    squares = [(each.to(wide).flatten(1) / scale).square().sum(dim=1) for each in gradients]
    return torch.stack(squares).sum(dim=0)


def r1(score: Score, reals: Images, fakes: Images, mixing: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Half of the mean squared gradient norm at the reals (Mescheder et al. 2018, 1801.04406, equation 9)."""
    del fakes, mixing
    return 0.5 * _squared_norm(score, reals, scale).mean()


def r2(score: Score, reals: Images, fakes: Images, mixing: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Half of the mean squared gradient norm at the fakes (1801.04406, equation 10; beside R1 in 2501.05441)."""
    del reals, mixing
    return 0.5 * _squared_norm(score, fakes, scale).mean()


def wgan_gp(score: Score, reals: Images, fakes: Images, mixing: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Mean squared distance of the gradient norm from 1, between reals and fakes (1704.00028, equation 3).

    All scales of a sample are mixed alike: what lies between is one point, of images that belong together. The root
    is guarded: its gradient at 0 would be infinite.
    """
    share = mixing.to(reals[0]).view(-1, 1, 1, 1)
    between = tuple(share * real + (1 - share) * fake for real, fake in zip(reals, fakes, strict=True))
    norm = (_squared_norm(score, between, scale) + 1e-12).sqrt()
    return (norm - 1).square().mean()


PENALTIES = {"r1": r1, "r2": r2, "wgan_gp": wgan_gp}
