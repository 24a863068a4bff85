"""Raw and finished corpora for the tests of this folder."""

from pathlib import Path

import pytest

from t2f_dist.shard.build import build
from tests.sentence_model import model_folder
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


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished shards with an embedding a caption; some samples have no captions."""
    folder = model_folder()
    root = tmp_path_factory.mktemp("embedded")
    corpus = Corpus(root / "corpus", people=8)
    corpus.rows = [row for row in corpus.rows if not row["image"].startswith(("p01", "p06"))]
    corpus.write()
    split = {"validation": 0.3, "test": 0.3}
    build(corpus.recipe(root / "shards", embed=str(folder), split=split), workers=1, progress=False)
    return root / "shards"
