"""Adversarial losses: what the discriminator minimises of its logits, and what the generator does.

Logits are [N], unbounded. Every term is a mean over samples, or over fixed groups of consecutive ones, so that shares
of a batch average to the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Labels(NamedTuple):
    """What a term may need beside the logits."""

    real_label: float = (
        1.0  # below 1: one-sided label smoothing (1606.03498, section 3.4), of cross-entropy and squares
    )
    group_size: int = 1  # consecutive positions over which a relativistic average is taken; divides N


Term = Callable[[Tensor, Tensor, Labels], Tensor]  # real logits [N], fake logits [N] -> scalar


class Adversarial(NamedTuple):
    """The discriminator minimises real + fake, the generator `generated`.

    A mismatched pair counts as fake: `fake(real_logits, mismatched_logits, labels)`.
    """

    real: Term
    fake: Term
    generated: Term
    relative: bool = False  # whether `generated` looks at the real logits; if not, any will do in their place


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    """Of D = sigmoid(logits) with the label: -label log(D) - (1 - label) log(1 - D)."""
    return (label * F.softplus(-logits) + (1 - label) * F.softplus(logits)).mean()


def _squares(logits: Tensor, label: float) -> Tensor:
    return (logits - label).square().mean()


def _hinge(margins: Tensor) -> Tensor:
    return F.relu(1 - margins).mean()


def _above_average(logits: Tensor, others: Tensor, group_size: int) -> Tensor:
    """[N], [N] -> [N]: each of `logits`, less the mean of `others` in its group."""
    assert len(logits) % group_size == 0, f"{len(logits)} samples cut a group of {group_size}"
    averages = others.reshape(-1, group_size).mean(dim=1, keepdim=True)
    return (logits.reshape(-1, group_size) - averages).flatten()


def _softplus_of_pairs(lower: Tensor, upper: Tensor) -> Tensor:
    """Small where each `upper` is far above the `lower` of its position."""
    return F.softplus(lower - upper).mean()


ADVERSARIAL: dict[str, Adversarial] = {
    # Goodfellow et al. 2014, 1406.2661, section 3: -log D(real), -log(1 - D(fake)); -log D(fake) for the generator.
    "non_saturating": Adversarial(
        real=lambda real, fake, labels: _cross_entropy(real, labels.real_label),
        fake=lambda real, fake, labels: _cross_entropy(fake, 0.0),
        generated=lambda real, fake, labels: _cross_entropy(fake, 1.0),
    ),
    # Arjovsky et al. 2017, 1701.07875, equation 2.
    "wgan": Adversarial(
        real=lambda real, fake, labels: -real.mean(),
        fake=lambda real, fake, labels: fake.mean(),
        generated=lambda real, fake, labels: -fake.mean(),
    ),
    # Mao et al. 2017, 1611.04076, with labels 0 and 1, without the halves: mean squared errors.
    "least_squares": Adversarial(
        real=lambda real, fake, labels: _squares(real, labels.real_label),
        fake=lambda real, fake, labels: _squares(fake, 0.0),
        generated=lambda real, fake, labels: _squares(fake, 1.0),
    ),
    # Miyato et al. 2018, 1802.05957, equations 16 and 17.
    "hinge": Adversarial(
        real=lambda real, fake, labels: _hinge(real),
        fake=lambda real, fake, labels: _hinge(-fake),
        generated=lambda real, fake, labels: -fake.mean(),
    ),
    # Jolicoeur-Martineau 2018, 1807.00734, as MSG-GAN (1903.06048) sums it; averages are of a group, not of a batch.
    "relativistic_average_hinge": Adversarial(
        real=lambda real, fake, labels: _hinge(_above_average(real, fake, labels.group_size)),
        fake=lambda real, fake, labels: _hinge(-_above_average(fake, real, labels.group_size)),
        generated=lambda real, fake, labels: (
            _hinge(-_above_average(real, fake, labels.group_size))
            + _hinge(_above_average(fake, real, labels.group_size))
        ),
        relative=True,
    ),
    # RpGAN as in R3GAN (Huang et al. 2024, 2501.05441): one term a pair, which `fake` carries.
    "relativistic_pairing": Adversarial(
        real=lambda real, fake, labels: torch.zeros_like(real).mean(),
        fake=lambda real, fake, labels: _softplus_of_pairs(fake, real),
        generated=lambda real, fake, labels: _softplus_of_pairs(real, fake),
        relative=True,
    ),
}


def drift(real_logits: Tensor) -> Tensor:
    """Mean square of the critic's scores of reals, which keeps them from wandering off (1710.10196, appendix A.1)."""
    return real_logits.square().mean()
