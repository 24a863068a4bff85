"""Caption -> embedding: a learned LSTM, as in T2F, that reads each caption to its own end and no further.

Shapes: N captions, T words, E embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from t2f_dist.config import schema

# The mean over some twenty outputs in (-1, 1) is small; this brings it to about unit size.
MEAN_GAIN = 3.0


class TextEncoder(nn.Module):
    """Word embeddings, LSTM on packed sequences, then the mean of its outputs or its last state.

    Packing makes padding invisible: the embedding of a caption does not depend on what it is batched with. Runs in
    the dtype of its weights, outside any autocast: recurrences lose too much in bf16.
    """

    def __init__(self, config: schema.TextEncoder, num_words: int):
        super().__init__()
        self.config = config
        self.words = nn.Embedding(num_words, config.embedding_size, padding_idx=0)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            config.num_layers,
            batch_first=True,
            bidirectional=config.bidirectional,
        )

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens int64 [N, T], lengths int64 [N] (1 to T, on any device) -> [N, E]."""
        with torch.autocast(tokens.device.type, enabled=False):
            embedded = self.words(tokens)
            packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
            outputs, (last, _) = self.lstm(packed)
            if self.config.pooling == "mean":
                padded, _ = pad_packed_sequence(outputs, batch_first=True)  # zeros past each end
                return padded.sum(dim=1) / lengths.to(padded)[:, None] * MEAN_GAIN
            directions = 2 if self.config.bidirectional else 1
            return torch.cat(list(last[-directions:]), dim=1)
