"""Shards of every kind of sample."""

from pathlib import Path

import pytest

from tests.data import mixed


@pytest.fixture(scope="session")
def mixed_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `mixed`; tests that change them work on a copy."""
    return mixed.write(tmp_path_factory.mktemp("mixed") / "shards")


@pytest.fixture(scope="session")
def rare_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those in which few have a voice."""
    return mixed.write(tmp_path_factory.mktemp("rare") / "shards", mixed.Rare)
