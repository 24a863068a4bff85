"""Caption -> embedding: a learned LSTM, as in T2F, that reads each caption to its own end and no further.

Shapes: N captions, T words, E embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from t2f_dist.config.condition import Lstm
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.facts import Facts

# The mean over some twenty outputs in (-1, 1) is small; this brings it to about unit size.
MEAN_GAIN = 3.0


class TextEncoder(nn.Module):
    """Word embeddings, LSTM on packed sequences, then the mean of its outputs or its last state.

    Packing makes padding invisible: the embedding of a caption does not depend on what it is batched with. Runs in
    the dtype of its weights, outside any autocast: recurrences lose too much in bf16. It has no batch normalisation.

    Raises ValueError where the shards have no words, that is, no captions.
    """

    def __init__(self, section: Lstm, facts: Facts, batch_norm: BatchNorm):
        super().__init__()
        if not facts.num_words:
            raise ValueError(
                "condition.caption needs captions, and the shards have none: build them with"
                " `t2f-dist shard --captions`, or set condition.caption to null"
            )
        self.pooling = section.pooling
        self.words = nn.Embedding(facts.num_words, section.embedding_size, padding_idx=0)
        self.lstm = nn.LSTM(
            section.embedding_size,
            section.hidden_size,
            section.num_layers,
            batch_first=True,
            bidirectional=section.bidirectional,
        )
        self.num_directions = 2 if section.bidirectional else 1
        self.output_size = section.hidden_size * self.num_directions

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens int64 [N, T], lengths int64 [N] (0 to T, on any device) -> [N, E].

        What a row of length 0 gives is finite and of no meaning.
        """
        if not tokens.shape[1]:  # a batch without any caption
            tokens = F.pad(tokens, (0, 1))
        lengths = lengths.clamp(min=1)
        with torch.autocast(tokens.device.type, enabled=False):
            embedded = self.words(tokens)
            packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
            outputs, (last, _) = self.lstm(packed)
            if self.pooling == "mean":
                padded, _ = pad_packed_sequence(outputs, batch_first=True)  # zeros past each end
                return padded.sum(dim=1) / lengths.to(padded)[:, None] * MEAN_GAIN
            return torch.cat(list(last[-self.num_directions :]), dim=1)
