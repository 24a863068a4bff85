"""Shards of every kind of sample."""

from pathlib import Path

import pytest

from tests.data import mixed


@pytest.fixture(scope="session")
def mixed_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `mixed`; tests that change them work on a copy."""
    return mixed.write(tmp_path_factory.mktemp("mixed") / "shards")
