"""Terms that draw fakes to the reals of the same positions: in the discriminator's features, or in the pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def feature_matching(fakes: Tensor, reals: Tensor, group_size: int) -> Tensor:
    """Mean squared difference between the mean features of fakes and of reals (1606.03498, section 3.1).

    [N, ...], [N, ...] -> scalar, averaged over features and over groups of `group_size` consecutive positions, which
    divides N. The reals get no gradient. A small group's mean is noisy: even where fakes and reals are distributed
    alike, a term of the order of their variance / group_size remains.
    """
    assert len(fakes) % group_size == 0, f"{len(fakes)} samples cut a group of {group_size}"
    difference = _wide(fakes) - _wide(reals.detach())
    return difference.reshape(-1, group_size, *difference.shape[1:]).mean(dim=1).square().mean()


def l1(fakes: tuple[Tensor, ...], reals: tuple[Tensor, ...]) -> Tensor:
    """Mean absolute difference of pixels at the largest scale.

    Images are one tensor [N, 3, r, r] a resolution, smallest first; -> scalar.
    """
    return (_wide(fakes[-1]) - _wide(reals[-1].detach())).abs().mean()
