"""Adversarial losses, each a pair: what the discriminator minimises of its logits, and what the generator does.

Logits are [N], unbounded; every term is a mean over samples, so that shares of a batch average to the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Adversarial(NamedTuple):
    """`real` and `fake` for the discriminator, `generated` for the generator; each [N] -> scalar."""

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generated: Callable[[Tensor], Tensor]


def _softplus_mean(logits: Tensor) -> Tensor:
    return F.softplus(logits).mean()


def _negative_mean(logits: Tensor) -> Tensor:
    return -logits.mean()


ADVERSARIAL = {
    # Goodfellow et al. 2014, 1406.2661, section 3: -log D(real), -log(1 - D(fake)); -log D(fake) for the generator.
    "non_saturating": Adversarial(
        real=lambda logits: _softplus_mean(-logits),
        fake=_softplus_mean,
        generated=lambda logits: _softplus_mean(-logits),
    ),
    # Arjovsky et al. 2017, 1701.07875, equation 2.
    "wgan": Adversarial(real=_negative_mean, fake=lambda logits: logits.mean(), generated=_negative_mean),
}


def drift(real_logits: Tensor) -> Tensor:
    """Mean square of the critic's scores of reals, which keeps them from wandering off (1710.10196, appendix A.1)."""
    return real_logits.square().mean()
