"""Embeddings of a corpus and of a model: one row a caption, of one size, or the image is rejected."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.shard.corpus import Entry
from t2f_dist.shard.embed import Embedder
from t2f_dist.shard.encode import Rejected
from t2f_dist.shard.sources import Embeddings, File
from t2f_dist.text.sentence import SentenceEncoder
from tests.sentence_model import model_folder


@dataclass(frozen=True)
class Saved:
    """An array in a .npy file."""

    path: Path

    def read(self) -> np.ndarray:
        try:
            return np.load(self.path, allow_pickle=False)
        except (OSError, EOFError) as error:
            raise ValueError(f"{self.path}: {error}") from None


def entry(path: Path, name: str, array: np.ndarray | None, num_captions: int = 2) -> Entry:
    """An image whose captions' embeddings are the rows of an array, in a file of its own."""
    embeddings = None
    if array is not None:
        np.save(path / f"{name}.npy", array)
        embeddings = Embeddings(tuple((Saved(path / f"{name}.npy"), row) for row in range(len(array))))
    captions = tuple(f"caption {number}" for number in range(num_captions))
    return Entry(f"{name}.jpg", name, name, captions, None, File(str(path), f"{name}.jpg"), embeddings)


def rows(num: int, size: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=num)).standard_normal((num, size), dtype=np.float32)


def test_those_of_the_corpus_as_they_are(tmp_path: Path):
    entries = [entry(tmp_path, "a", None, 0), entry(tmp_path, "b", rows(2, 5)), entry(tmp_path, "c", rows(3, 5), 3)]
    embedder = Embedder.of_corpus(entries)
    assert embedder is not None
    assert (embedder.record.size, embedder.record.source, embedder.record.sha256) == (5, "corpus", "")
    assert embedder.open() is None
    for number, found in zip((0, 2, 3), entries):
        array = embedder.embed(found, None)
        assert array.dtype == np.float32
        assert np.array_equal(array, rows(number, 5))


def test_a_corpus_without_embeddings(tmp_path: Path):
    assert Embedder.of_corpus([entry(tmp_path, "a", None), entry(tmp_path, "b", None, 0)]) is None


def test_what_does_not_fit_is_rejected_with_its_reason(tmp_path: Path):
    whole = entry(tmp_path, "whole", rows(2, 5))
    spoilt = rows(2, 5)
    spoilt[1, 3] = np.inf
    gone = entry(tmp_path, "gone", rows(2, 5))
    (tmp_path / "gone.npy").unlink()
    wrong = {
        "no embeddings of its captions": entry(tmp_path, "none", None),
        r"\[3, 5\], not one for each of 2 captions": entry(tmp_path, "more", rows(3, 5)),
        "not finite": entry(tmp_path, "spoilt", spoilt),
        r"unreadable embeddings: .*gone\.npy": gone,
    }
    embedder = Embedder.of_corpus([*wrong.values(), whole])
    assert embedder is not None
    assert embedder.example == "whole.jpg"
    for reason, found in wrong.items():
        with pytest.raises(Rejected, match=reason):
            embedder.embed(found, None)
    with pytest.raises(ValueError, match=r"no embedding of the corpus can be read: gone\.jpg: unreadable"):
        Embedder.of_corpus([gone])


def test_two_sizes_name_two_images(tmp_path: Path):
    first, second = entry(tmp_path, "a", rows(2, 5)), entry(tmp_path, "b", rows(2, 7))
    embedder = Embedder.of_corpus([first, second])
    assert embedder is not None
    with pytest.raises(ValueError, match=r"a\.jpg have 5 values, those of b\.jpg 7") as error:
        embedder.embed(second, None)
    assert not isinstance(error.value, Rejected)


def test_those_of_a_model_win(tmp_path: Path):
    encoder = SentenceEncoder(model_folder())
    embedder = Embedder.of_model(encoder)
    assert embedder.record.model_dump() == {"size": 384, "model": "model", "sha256": encoder.sha256, "source": "model"}
    again = embedder.open()
    assert again is not None
    found = entry(tmp_path, "a", rows(2, 5))
    assert np.array_equal(embedder.embed(found, again), encoder.encode(found.captions))
    assert embedder.embed(entry(tmp_path, "b", None, 0), encoder).shape == (0, 384)
