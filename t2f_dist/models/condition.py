"""Caption, voice and identity -> one embedding: each by an encoder of its own, side by side.

A sample may lack a modality: a vector that is learned stands in its place. So one trained model can be asked with a
caption, with a voice, or with both.

Shapes: N samples, T words or audio samples, E embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from t2f_dist.config import condition
from t2f_dist.config.condition import MODALITIES
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.facts import Facts
from t2f_dist.models.one_hot_encoder import OneHotEncoder
from t2f_dist.models.speech_encoder import LogMelEncoder
from t2f_dist.models.stored_encoder import StoredEncoder
from t2f_dist.models.text_encoder import TextEncoder
from t2f_dist.models.waveform_encoder import WaveformEncoder

Inputs = Mapping[str, tuple[Tensor, Tensor]]
"""Modality -> values, padded, and the length of each sample's, int64 [N] on the CPU; a length of 0: it has none.

Caption: words int64 [N, T], or a stored embedding [N, 1, D]. Speech: int16, or float in [-1, 1], [N, T]. Identity: its
class int64 [N, 1].
"""

ENCODERS = {
    condition.Lstm: TextEncoder,
    condition.Stored: StoredEncoder,
    condition.LogMel: LogMelEncoder,
    condition.Waveform: WaveformEncoder,
    condition.OneHot: OneHotEncoder,
}


class ConditionEncoder(nn.Module):
    """The encoders of a configuration's modalities. Raises ValueError for a modality that the shards lack."""

    def __init__(self, config: condition.Condition, facts: Facts, batch_norm: BatchNorm):
        super().__init__()
        encoders = {name: ENCODERS[type(m)](m, facts, batch_norm) for name, m in config.modalities.items()}
        self.encoders = nn.ModuleDict(encoders)
        self.missing = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(encoder.output_size)) for name, encoder in encoders.items()}
        )
        self.output_size = sum(encoder.output_size for encoder in encoders.values())

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """Those of its encoder, and what stands in where it is missing."""
        return [*self.encoders[modality].parameters(), self.missing[modality]]

    def forward(self, inputs: Inputs, like: Tensor) -> Tensor:
        """-> [N, E]; without any modality [N, 0], of the device and format of `like` [N, ...]."""
        parts = [like.new_zeros(len(like), 0)]
        for name in MODALITIES:
            if name not in self.encoders:
                continue
            values, lengths = inputs[name]
            present = (lengths > 0).to(values.device)[:, None]
            missing = self.missing[name]
            if values.dtype == torch.int16:  # as voices are stored
                values = values.to(missing) / 32768
            with torch.autocast(values.device.type, enabled=False):
                embedding = self.encoders[name](values, lengths).to(missing.dtype)
            parts.append(torch.where(present, embedding, missing))
        return torch.cat(parts, dim=1)


def concatenate(first: Inputs, second: Inputs) -> dict[str, tuple[Tensor, Tensor]]:
    """The samples of both, one after the other, padded together: padding is invisible to every encoder."""
    joined = {}
    for name, (values, lengths) in first.items():
        others, other_lengths = second[name]
        width = max(values.shape[1], others.shape[1])
        joined[name] = (
            torch.cat([_widened(values, width), _widened(others, width)]),
            torch.cat([lengths, other_lengths]),
        )
    return joined


def _widened(values: Tensor, width: int) -> Tensor:
    if values.shape[1] == width:
        return values
    padding = values.new_zeros(values.shape[0], width - values.shape[1], *values.shape[2:])
    return torch.cat([values, padding], dim=1)
