"""Minibatch discrimination (Salimans et al. 2016, "Improved Techniques for Training GANs", 1606.03498, section 3.2).

How close an image is to the others of its group, which gives away a generator that draws one image again and again.

Shapes: N images, A features, B kernels of C numbers, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2f_dist.config.networks import MinibatchDiscrimination as Section


class MinibatchDiscrimination(nn.Module):
    """Features [N, A] -> [N, B]: sums of closeness within groups of consecutive images, to stand beside the features.

    M_i = f(x_i) T, a matrix [B, C]; o(x_i)_b = sum_j exp(-|M_ib - M_jb|_1), over all j of the group, i too. T begins
    as N(0, scale^2 / A), so that M is of about `scale` whatever the number of features: were it larger, every
    exponential would be 0 and T would learn nothing. N must be a multiple of `group_size`.
    """

    def __init__(self, section: Section, num_features: int):
        super().__init__()
        self.group_size = section.group_size
        self.kernels = nn.Parameter(torch.empty(num_features, section.num_kernels, section.kernel_size))
        nn.init.normal_(self.kernels, 0.0, section.scale * num_features**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """[N, A] -> [N, B], each in [1, group_size]."""
        assert len(features) % self.group_size == 0, f"{len(features)} images cut a group of {self.group_size}"
        with torch.autocast(features.device.type, enabled=False):  # differences of what is nearly equal
            projected = features.to(self.kernels.dtype) @ self.kernels.flatten(1)
        groups = projected.view(-1, self.group_size, *self.kernels.shape[1:])  # [G, N / G, B, C]
        distances = (groups[:, :, None] - groups[:, None]).abs().sum(dim=4)  # [G, N / G, N / G, B]
        return (-distances).exp().sum(dim=2).flatten(0, 1).to(features.dtype)
