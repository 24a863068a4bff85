"""Voice -> embedding by strided convolutions over the waveform itself, as in wav2pix (Duarte et al. 2019, 1903.10195).

The encoder is the discriminator of SEGAN (Pascual et al. 2017, 1703.09452, section 3). The published preparation of
wav2pix divides integers by integers, which leaves a waveform of -1, 0 and 1 only; here it is divided as real numbers.

Shapes: N voices, T audio samples, C channels, E embedding.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t2f_dist.config.condition import Waveform
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.batch_norm import GroupBatchNorm
from t2f_dist.models.facts import Facts

KERNEL_SIZE = 15
STRIDE = 4
PADDING = (6, 7)  # 16000 samples become 4000, 1000, 250, 63, 16 and 4
SLOPE = 0.3

Length = TypeVar("Length", int, Tensor)


class WaveformEncoder(nn.Module):
    """Peak normalisation, pre-emphasis, strided convolutions, and fully connected layers over what is left of time.

    Hears the first `seconds`: of a longer voice the rest is cut, in a shorter one what lies past its end is zero after
    every layer and takes no part in the batch statistics. So the padding changes nothing. In training, batch
    normalisation is over groups of consecutive voices; in evaluation a voice does not depend on its company. Runs in
    the dtype of its weights, outside any autocast.

    Raises ValueError where the shards have no voices, and where `seconds` is too short for the convolutions.
    """

    def __init__(self, section: Waveform, facts: Facts, batch_norm: BatchNorm):
        super().__init__()
        if not facts.sample_rate_hz:
            raise ValueError(
                "condition.speech needs voices, and the shards have none: build them with `t2f-dist shard --speech`,"
                " or set condition.speech to null"
            )
        self.pre_emphasis = section.pre_emphasis
        self.num_samples = round(section.seconds * facts.sample_rate_hz)
        length = self.num_samples
        for _ in section.channels:
            length = _steps(length)
        if length < 1:
            raise ValueError(
                f"condition.speech.seconds {section.seconds} is {self.num_samples} audio samples at"
                f" {facts.sample_rate_hz} Hz, too few for {len(section.channels)} convolutions of stride {STRIDE}:"
                " raise seconds or give fewer channels"
            )
        widths = (1, *section.channels)
        self.convs = nn.ModuleList(
            nn.Conv1d(before, after, KERNEL_SIZE, STRIDE, bias=False)  # the normalisation has a bias
            for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(
            GroupBatchNorm(width, batch_norm.group_size, batch_norm.momentum) for width in section.channels
        )
        sizes = (widths[-1] * length, *section.hidden_sizes, section.size)
        linears = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        for linear in linears:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        self.linears = nn.ModuleList(linears)
        self.output_size = section.size

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """waveform [N, T] in [-1, 1], lengths int64 [N] in audio samples (0 to T, on any device) -> [N, E].

        What a row of length 0 gives is finite and of no meaning, and the row takes no part in batch statistics.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            lengths = lengths.to(waveform.device).clamp(max=self.num_samples)
            waveform = waveform.to(next(self.linears.parameters()).dtype)[:, : self.num_samples]
            x = F.pad(waveform, (0, self.num_samples - waveform.shape[1]))[:, None]  # [N, 1, T]
            x = self._emphasized(x, _valid(lengths, x))
            for conv, norm in zip(self.convs, self.norms, strict=True):
                lengths = _steps(lengths).clamp(min=1).minimum(lengths)  # a voice keeps one step, silence none
                x = conv(F.pad(x, PADDING))
                valid = _valid(lengths, x)
                x = F.leaky_relu(norm(x, valid.to(x)), SLOPE).where(valid, 0)
            x = x.flatten(1)
            for linear in self.linears:
                x = linear(x).relu()
            return x

    def _emphasized(self, x: Tensor, valid: Tensor) -> Tensor:
        """Scaled to a peak of 1 over its own samples, then x[t] - pre_emphasis x[t - 1]; zero past its end."""
        x = x.where(valid, 0)
        peak = x.abs().amax(dim=2, keepdim=True)
        x = x / peak.where(peak > 0, 1)  # silence stays silence
        return (x - self.pre_emphasis * F.pad(x, (1, -1))).where(valid, 0)


def _steps(length: Length) -> Length:
    """How many steps a convolution makes of so many."""
    return (length + sum(PADDING) - KERNEL_SIZE) // STRIDE + 1


def _valid(lengths: Tensor, x: Tensor) -> Tensor:
    """bool [N, 1, T]: what of x [N, C, T] lies before the end of each row."""
    return (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None]
