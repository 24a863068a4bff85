"""Raw and finished corpora for the tests of this folder."""

from pathlib import Path

import pytest

from t2f_dist.shard.build import build
from tests.shard.raw import Corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus")


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished shards of the whole corpus; tests that change them work on a copy."""
    root = tmp_path_factory.mktemp("built")
    build(Corpus(root / "corpus").recipe(root / "shards"), workers=1, progress=False)
    return root / "shards"
