"""Terms that tie an image to its caption."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def kl_to_unit_gaussian(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), summed over dimensions, averaged over samples (1612.03242, equation 2).

    [N, S], [N, S] -> scalar.
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1).mean()


def contrastive(
    images: Tensor, captions: Tensor, temperature: float, group_size: int, negatives: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE between matching rows, within groups of `group_size` (1807.03748, equation 4; 2101.04702).

    images [N, S] and captions [N, S] are unit vectors; N is a multiple of `group_size`. Each image picks its caption
    among those of its group and, where `negatives` [N, S] is given, the group's mismatched captions too; each caption
    picks its image among the group's. Groups are consecutive positions of the stream: however a global batch is
    shared out, the rivals are the same.
    """
    num, size = images.shape
    assert num % group_size == 0, f"{num} samples cut a group of {group_size}"
    grouped_images = images.view(-1, group_size, size)
    similarity = grouped_images @ captions.view(-1, group_size, size).transpose(1, 2) / temperature  # [groups, g, g]
    target = torch.arange(group_size, device=images.device).expand(similarity.shape[0], -1)
    by_image = similarity
    if negatives is not None:
        mismatch = grouped_images @ negatives.view(-1, group_size, size).transpose(1, 2) / temperature
        by_image = torch.cat([similarity, mismatch], dim=2)
    image_to_caption = F.cross_entropy(by_image.flatten(0, 1), target.flatten())
    caption_to_image = F.cross_entropy(similarity.transpose(1, 2).flatten(0, 1), target.flatten())
    return 0.5 * (image_to_caption + caption_to_image)
