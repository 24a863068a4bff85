"""Gradient penalties on the discriminator. The norm is that of a sample's whole image, [3, R, R], in float32.

`score` maps images [N, 3, R, R] to logits [N]; each penalty makes its own forward pass, so that it may be lazy.
`scale` multiplies the scores before differentiation and is divided out of the gradient: fp16 gradients of images
would vanish without it (pytorch's documented recipe for penalties under mixed precision).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]


def _gradient(score: Score, images: Tensor, scale: float) -> Tensor:
    """d score / d images, flattened to [N, 3 R R] and differentiable."""
    (gradient,) = torch.autograd.grad(score(images).sum() * scale, images, create_graph=True)
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return gradient.to(wide).flatten(1) / scale


def r1(score: Score, reals: Tensor, fakes: Tensor, mixing: Tensor, scale: float = 1.0) -> Tensor:
    """Half of the mean squared gradient norm at the reals (Mescheder et al. 2018, 1801.04406, equation 9)."""
    del fakes, mixing
    gradient = _gradient(score, reals.detach().requires_grad_(), scale)
    return 0.5 * gradient.square().sum(dim=1).mean()


def wgan_gp(score: Score, reals: Tensor, fakes: Tensor, mixing: Tensor, scale: float = 1.0) -> Tensor:
    """Mean squared distance of the gradient norm from 1, between reals and fakes (1704.00028, equation 3).

    `mixing` [N] in [0, 1] is each sample's share of real. The root is guarded: its gradient at 0 would be infinite.
    """
    share = mixing.to(reals).view(-1, 1, 1, 1)
    between = (share * reals + (1 - share) * fakes).detach().requires_grad_()
    gradient = _gradient(score, between, scale)
    return ((gradient.square().sum(dim=1) + 1e-12).sqrt() - 1).square().mean()


PENALTIES = {"r1": r1, "wgan_gp": wgan_gp}
