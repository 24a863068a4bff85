"""Shards with embeddings, shared with the tests of shards."""

from tests.shard.conftest import embedded  # noqa: F401
