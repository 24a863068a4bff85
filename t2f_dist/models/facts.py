"""The sizes that the shards decide, and the encoders follow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What of the shards decides the sizes of encoders; 0 where they hold none of it."""

    num_words: int = 0  # of the vocabulary
    embedding_size: int = 0  # of stored caption embeddings
    sample_rate_hz: int = 0  # of voices
    num_identities: int = 0  # in the split that is trained on
