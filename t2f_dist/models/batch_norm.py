"""Batch normalisation over fixed groups of a batch (Ioffe & Szegedy 2015, 1502.03167).

The statistics are those of `group_size` consecutive samples, so they are the same however many ranks or micro-batches
share a batch, and no rank has to ask another. The running statistics, with which a snapshot draws, are left to the
trainer: what a rank saw is averaged over the ranks first.

Shapes: N samples, F features, H and W pixels, T steps of a signal, G groups, P = H * W or T positions (1 for [N, F]).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2f_dist.models.layers import at_least_float32


class GroupBatchNorm(nn.Module):
    """Batch normalisation of [N, F], [N, F, H, W] or [N, F, T], where the samples of a group stand beside each other.

    In training N must be a multiple of `group_size`; in evaluation it may be anything. Weights begin as N(1, 0.02) and
    biases as 0, as in the published DCGAN (1511.06434). Once a step, the trainer averages `statistics` over the ranks
    and hands them to `update`, on each rank the same.
    """

    running_mean: Tensor  # [F]
    running_var: Tensor  # [F]

    def __init__(self, num_features: int, group_size: int, momentum: float, eps: float = 1e-5):
        super().__init__()
        self.group_size, self.momentum, self.eps = group_size, momentum, eps
        self.weight = nn.Parameter(torch.empty(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        nn.init.normal_(self.weight, 1.0, 0.02)
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self._sum: Tensor | None = None  # [2, F], of the forwards since the last update; without a graph
        self._num_forwards = 0

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`x` normalised, in its own dtype; statistics are taken in float32 at least.

        mask [N, 1, T], for x [N, F, T]: nonzero where a step counts. What stands in the others changes nothing of
        what comes out for those that count.
        """
        wide = at_least_float32(x)
        wide = wide.flatten(2) if x.dim() > 2 else wide[:, :, None]  # [N, F, P]
        if self.training:
            assert len(x) % self.group_size == 0, f"{len(x)} samples cut a group of {self.group_size}"
            groups = wide.unflatten(0, (-1, self.group_size))  # [G, N / G, F, P]
            mean, variance = self._moments(groups, mask)
        else:
            groups, mean, variance = wide[None], self.running_mean[None], self.running_var[None]
        scale = self.weight * torch.rsqrt(variance + self.eps)  # [G, F]
        normal = (groups - mean[:, None, :, None]) * scale[:, None, :, None] + self.bias[:, None]
        return normal.reshape(x.shape).to(x.dtype)

    def _moments(self, groups: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of each group, [G, F] each, which are remembered too."""
        num_groups, group_size, _, num_positions = groups.shape
        if mask is None:
            valid = None
            count = groups.new_full((1, 1), group_size * num_positions)
        else:
            assert mask.shape == (num_groups * group_size, 1, num_positions), f"mask {tuple(mask.shape)}"
            valid = mask.to(groups.dtype).unflatten(0, (num_groups, group_size))  # [G, N / G, 1, P]
            count = valid.sum(dim=(1, 3))  # [G, 1]

        def average(values: Tensor) -> Tensor:
            return (values if valid is None else values * valid).sum(dim=(1, 3)) / count.clamp(min=1)

        mean = average(groups)
        variance = average((groups - mean[:, None, :, None]).square())
        with torch.no_grad():
            # The running variance is the unbiased one, as everywhere. A group without a single step says nothing.
            unbiased = variance * (count / (count - 1).clamp(min=1))
            means = torch.where(count > 0, mean, self.running_mean)
            variances = torch.where(count > 0, unbiased, self.running_var)
            seen = torch.stack([means.mean(dim=0), variances.mean(dim=0)])
            self._sum = seen if self._sum is None else self._sum + seen
            self._num_forwards += 1
        return mean, variance

    def statistics(self) -> Tensor | None:
        """Mean and unbiased variance [2, F] of the training forwards since the last `update`: the average over their
        groups. None where there was no forward."""
        return None if self._sum is None else self._sum / self._num_forwards

    @torch.no_grad()
    def update(self, statistics: Tensor, bad: Tensor | None = None) -> None:
        """Move the running statistics towards `statistics` [2, F] by `momentum`, and forget what was seen.

        bad: bool, they do not move. Nor do they where one of `statistics` is not finite.
        """
        bad = ~statistics.isfinite().all() if bad is None else bad | ~statistics.isfinite().all()
        for running, seen in ((self.running_mean, statistics[0]), (self.running_var, statistics[1])):
            running.lerp_(torch.where(bad, running, seen.to(running)), self.momentum)
        self.forget()

    def forget(self) -> None:
        self._sum, self._num_forwards = None, 0

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, group_size={self.group_size}, momentum={self.momentum}"
