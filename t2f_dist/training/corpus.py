"""What the networks, and those who will draw with them, need to know of the shards."""

from __future__ import annotations

from t2f_dist.data.dataset import Samples
from t2f_dist.models.facts import Facts
from t2f_dist.models.snapshot import Corpus


def facts(samples: Samples) -> Facts:
    """The sizes that the shards decide."""
    manifest = samples.manifest
    return Facts(
        num_words=len(samples.vocabulary) if samples.vocabulary else 0,
        embedding_size=manifest.embedding.size if manifest.embedding else 0,
        sample_rate_hz=manifest.sample_rate_hz or 0,
        num_identities=len(samples.identities),
    )


def corpus(samples: Samples) -> Corpus:
    """What a condition is read with; a part of each snapshot."""
    embedding = samples.manifest.embedding
    return Corpus(
        vocabulary=samples.vocabulary.to_json() if samples.vocabulary else "",
        embedding=embedding.model_dump(mode="json") if embedding else None,
        identities=tuple(samples.identities),
        identity_names=tuple(samples.identity_names),
    )
