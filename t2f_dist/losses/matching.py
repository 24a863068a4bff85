"""Terms that tie an image to its condition."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def kl_to_unit_gaussian(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), summed over dimensions, averaged over samples (1612.03242, equation 2).

    [N, S], [N, S] -> scalar.
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1).mean()


def contrastive(
    images: Tensor,
    conditions: Tensor,
    temperature: float,
    group_size: int,
    negatives: Tensor | None = None,
    queue: Tensor | None = None,
    rivals: Tensor | None = None,
    *,
    identities: Tensor | None = None,
    negative_identities: Tensor | None = None,
    present: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE between matching rows, within groups of `group_size` (1807.03748, equation 4; 2101.04702).

    images [N, S] and conditions [N, S] are unit vectors; `group_size` divides N. Each image picks its condition among
    those of its group and, where they are given, the group's mismatched ones, `negatives` [N, S], and those of earlier
    steps, `queue` [Q, S] (MoCo, 1911.05722). Of the queue, `rivals` [N, Q] says which count for each image: the False
    ones, of its own identity or never filled, contribute nothing, but must be finite. Each condition picks its image
    among the group's alone. Groups are consecutive positions of the stream: however a global batch is shared out, the
    rivals are the same.

    identities [N] and negative_identities [N], where they are given: what is of the same identity is no rival. A
    negative identity equal to that of its own row stands for a row without a mismatched condition. present bool [N]:
    rows without a condition have no part, though the mean is over N.
    """
    num, size = images.shape
    assert num % group_size == 0, f"{num} samples cut a group of {group_size}"
    assert (queue is None) == (rivals is None), "a queue comes with its rivals"
    grouped_images = images.reshape(-1, group_size, size)
    similarity = grouped_images @ conditions.reshape(-1, group_size, size).transpose(1, 2)  # [groups, g, g]
    own = torch.eye(group_size, dtype=torch.bool, device=images.device)
    whose = None if identities is None else identities.view(-1, group_size)  # [groups, g]
    if whose is not None:
        similarity = similarity.masked_fill((whose[:, :, None] == whose[:, None]) & ~own, -math.inf)
    by_image = similarity
    if present is not None:
        by_image = similarity.masked_fill(~present.view(-1, 1, group_size) & ~own, -math.inf)
    met = [by_image]
    if negatives is not None:
        mismatch = grouped_images @ negatives.reshape(-1, group_size, size).transpose(1, 2)
        if whose is not None and negative_identities is not None:
            others = negative_identities.view(-1, 1, group_size)
            alike = (whose[:, :, None] == others) | (whose[:, None] == others)
            mismatch = mismatch.masked_fill(alike, -math.inf)
        met.append(mismatch)
    if queue is not None and rivals is not None:
        earlier = (images @ queue.to(images).T).masked_fill(~rivals, -math.inf)  # [N, Q]
        met.append(earlier.unflatten(0, (-1, group_size)))
    # An image's own condition is never masked, so its softmax always has a finite term.
    by_image = torch.cat(met, dim=2) / temperature
    by_condition = similarity.transpose(1, 2) / temperature
    target = torch.arange(group_size, device=images.device).repeat(len(similarity))  # [N]
    image_to_condition = F.cross_entropy(by_image.flatten(0, 1), target, reduction="none")
    condition_to_image = F.cross_entropy(by_condition.flatten(0, 1), target, reduction="none")
    each = 0.5 * (image_to_condition + condition_to_image)
    return (each if present is None else each.where(present, 0.0)).mean()
