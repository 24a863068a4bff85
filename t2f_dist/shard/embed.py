"""The embeddings of captions: of a sentence encoder, or as the corpus brings them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from t2f_dist.shard.corpus import Entry
from t2f_dist.shard.encode import Rejected
from t2f_dist.shard.manifest import Embedding
from t2f_dist.text.sentence import SentenceEncoder


@dataclass(frozen=True)
class Embedder:
    """What the embeddings of a whole directory are; small, so that it goes to every worker.

    Attributes:
        folder: of the sentence encoder; None: the corpus brings them.
        example: an image whose embeddings have that size.
    """

    record: Embedding
    folder: str | None = None
    example: str = ""

    @classmethod
    def of_model(cls, encoder: SentenceEncoder) -> "Embedder":
        record = Embedding(size=encoder.size, model=encoder.name, sha256=encoder.sha256, source="model")
        return cls(record, str(encoder.folder))

    @classmethod
    def of_corpus(cls, entries: Iterable[Entry]) -> "Embedder | None":
        """By the first that can be read; None if there is none, or no entry has any.

        Raises:
            ValueError: there are some, and none can be read.
        """
        reason = ""
        for entry in entries:
            if entry.embeddings is None or not entry.captions:
                continue
            try:
                size = _read(entry).shape[1]
            except Rejected as error:
                reason = reason or f"{entry.path}: {error}"
                continue
            return cls(Embedding(size=size, model="", sha256="", source="corpus"), None, entry.path)
        if reason:
            raise ValueError(f"no embedding of the corpus can be read: {reason}")
        return None

    def open(self) -> SentenceEncoder | None:
        """The encoder, in a process that has none yet.

        Raises:
            ValueError: the folder is not what it was when the build began.
        """
        return SentenceEncoder(self.folder, self.record.sha256) if self.folder else None

    def embed(self, entry: Entry, encoder: SentenceEncoder | None) -> np.ndarray:
        """float32 [num_captions, size].

        Raises:
            Rejected: its embeddings are missing, damaged, or not one a caption.
            ValueError: they are of another size than those of another image.
        """
        if encoder is not None:
            return encoder.encode(entry.captions)
        if not entry.captions:
            return np.zeros((0, self.record.size), dtype=np.float32)
        array = _read(entry)
        if array.shape[1] != self.record.size:
            raise ValueError(
                f"the embeddings of {self.example} have {self.record.size} values, those of {entry.path} "
                f"{array.shape[1]}; all must have the same number"
            )
        return array


def _read(entry: Entry) -> np.ndarray:
    if entry.embeddings is None:
        raise Rejected("no embeddings of its captions, which other images have")
    try:
        array = np.asarray(entry.embeddings.read(), dtype=np.float32)
    except ValueError as error:
        raise Rejected(f"unreadable embeddings: {' '.join(str(error).split())}") from None
    if array.ndim != 2 or len(array) != len(entry.captions) or array.shape[1] == 0:
        raise Rejected(f"embeddings {list(array.shape)}, not one for each of {len(entry.captions)} captions")
    if not np.isfinite(array).all():
        raise Rejected("embeddings with values that are not finite")
    return array
