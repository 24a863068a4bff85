"""The same corpora as for the building of shards."""

from tests.shard.conftest import corpus, embedded, shards

__all__ = ["corpus", "embedded", "shards"]
