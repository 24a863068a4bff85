"""How a snapshot reads a caption, a voice, an identity: of a person who asks, or of a sample in shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from t2f_dist.config import condition
from t2f_dist.config.condition import LogMel, Lstm, OneHot, Stored, Waveform
from t2f_dist.config.recipe import AudioRecipe
from t2f_dist.data.speech import listen
from t2f_dist.evaluation.held import Held
from t2f_dist.models.snapshot import Snapshot
from t2f_dist.shard.encode import Rejected, clean_caption, encode_speech
from t2f_dist.shard.format import identity_number
from t2f_dist.shard.manifest import Embedding, Manifest
from t2f_dist.text.sentence import SentenceEncoder, fingerprint
from t2f_dist.text.vocabulary import UNKNOWN, Vocabulary

LONGEST_SECONDS = AudioRecipe().max_seconds  # of a voice that is read, as for shards


class Modality(ABC):
    """One kind of condition, with what of the snapshot it is read with.

    Args:
        snapshot: whose generator is asked.
        section: of the snapshot's configuration.
        model: folder of the sentence encoder for new captions, where one is needed.

    Attributes:
        absent: what stands for a condition that is missing; of length 0.
    """

    absent: np.ndarray

    @abstractmethod
    def __init__(self, snapshot: Snapshot, section: condition.Modality, model: Path | None): ...

    @abstractmethod
    def asked(self, text: str) -> np.ndarray:
        """What a person gives on the command line, of length 1 or more. Raises ValueError, FileNotFoundError."""

    @abstractmethod
    def held(self, sample: Held) -> np.ndarray:
        """What a sample holds; `absent` if nothing. Raises DamagedSample."""

    @abstractmethod
    def check(self, manifest: Manifest, folder: str | Path) -> None:
        """Raise ValueError where the conditions of these shards are not what the snapshot was trained with."""

    def label(self, text: str) -> str:
        """What a person gave, for people."""
        return text

    def note(self, text: str) -> str:
        """What a person should know of what they gave; empty: nothing."""
        del text
        return ""


class Words(Modality):
    """Captions word by word, by the snapshot's vocabulary. Raises ValueError where its encoder knows other words."""

    def __init__(self, snapshot: Snapshot, section: condition.Modality, model: Path | None):
        self.vocabulary = Vocabulary.from_json(snapshot.corpus.vocabulary)
        num_words = snapshot.facts.num_words
        if len(self.vocabulary) != num_words:
            raise ValueError(
                f"the snapshot's vocabulary has {len(self.vocabulary):,} entries, its encoder {num_words:,}"
            )
        self.max_words = snapshot.config.data.max_words
        self.absent = np.zeros(0, np.int64)

    def asked(self, text: str) -> np.ndarray:
        tokens = self.vocabulary.encode(clean_caption(text), self.max_words)
        if not any(token > UNKNOWN for token in tokens):  # its face would have nothing to do with it
            raise ValueError(
                f"caption {text!r} has no word of the vocabulary, which holds {len(self.vocabulary.words):,} words"
                f" such as {', '.join(self.vocabulary.words[:8])}"
            )
        return np.array(tokens, np.int64)

    def held(self, sample: Held) -> np.ndarray:
        if not sample.caption:
            return self.absent
        return np.array(self.vocabulary.encode(sample.caption, self.max_words) or [UNKNOWN], np.int64)

    def check(self, manifest: Manifest, folder: str | Path) -> None:
        if manifest.vocabulary is None:
            raise ValueError(f"{folder} holds no captions, with which the snapshot draws: name shards that do")

    def note(self, text: str) -> str:
        unknown = self.vocabulary.unknown(clean_caption(text))
        return f"not in the vocabulary, so without effect: {', '.join(unknown)} (in {text!r})" if unknown else ""


class Sentences(Modality):
    """Captions by their stored embeddings; a new one by the model that made those, where a model did."""

    def __init__(self, snapshot: Snapshot, section: condition.Modality, model: Path | None):
        if snapshot.corpus.embedding is None:
            raise ValueError("the snapshot does not say what its caption embeddings are: it is damaged")
        self.record = Embedding.model_validate(snapshot.corpus.embedding)
        self.absent = np.zeros((0, self.record.size), np.float32)
        self.model = model
        self._encoder: SentenceEncoder | None = None

    def asked(self, text: str) -> np.ndarray:
        caption = clean_caption(text)
        if not caption:
            raise ValueError(f"caption {text!r} is empty: say what the face is like")
        self._encoder = self._encoder or self._open()
        return self._encoder.encode([caption])

    def _open(self) -> SentenceEncoder:
        if self.record.source == "corpus":
            raise ValueError(
                "the captions of this snapshot's corpus came with their embeddings, and no model is known that could"
                " embed another: draw for captions of shards, with --shards DIR"
            )
        if self.model is None:
            raise ValueError(
                f"this snapshot reads captions as embeddings of the model {self.record.model!r}"
                f" (sha256 {self.record.sha256[:8]}...): give its folder with --embed MODEL_DIR"
            )
        if self.model.is_dir() and (found := fingerprint(self.model)) != self.record.sha256:
            raise ValueError(
                f"--embed {self.model} is not the model that embedded the captions of this snapshot: its sha256 is"
                f" {found[:12]}..., and that of {self.record.model} {self.record.sha256[:12]}...: give that folder"
            )
        return SentenceEncoder(self.model, self.record.sha256)

    def held(self, sample: Held) -> np.ndarray:
        return sample.embedding if len(sample.embedding) else self.absent

    def check(self, manifest: Manifest, folder: str | Path) -> None:
        if manifest.embedding is None:
            raise ValueError(f"{folder} holds no caption embeddings: shard it again with --embed MODEL_DIR")
        if manifest.embedding != self.record:
            raise ValueError(
                f"the caption embeddings in {folder} are of {_named(manifest.embedding)}, and the snapshot was trained"
                f" with those of {_named(self.record)}: name shards with the same"
            )


def _named(record: Embedding) -> str:
    source = f"{record.model} (sha256 {record.sha256[:12]}...)" if record.source == "model" else "a corpus"
    return f"{source} of {record.size} values"


class Voices(Modality):
    """Voices, as shards store them, from their beginning."""

    def __init__(self, snapshot: Snapshot, section: condition.Modality, model: Path | None):
        assert isinstance(section, LogMel | Waveform)
        self.sample_rate_hz = snapshot.facts.sample_rate_hz
        self.seconds = section.seconds
        self.absent = np.zeros(0, np.int16)

    def asked(self, text: str) -> np.ndarray:
        recipe = AudioRecipe(sample_rate_hz=self.sample_rate_hz, max_seconds=max(LONGEST_SECONDS, self.seconds))
        try:
            content, _ = encode_speech(Path(text), recipe)
        except Rejected as error:
            raise ValueError(f"voice {text}: {error}; give a file of wav, flac, ogg or mp3") from None
        return listen(content, self.seconds, start=0.0)

    def held(self, sample: Held) -> np.ndarray:
        return listen(sample.voice, self.seconds, start=0.0) if sample.voice else self.absent

    def check(self, manifest: Manifest, folder: str | Path) -> None:
        if manifest.sample_rate_hz is None:
            raise ValueError(f"{folder} holds no voices, with which the snapshot draws: name shards that do")
        if manifest.sample_rate_hz != self.sample_rate_hz:
            raise ValueError(
                f"the voices in {folder} are of {manifest.sample_rate_hz} Hz, and the snapshot was trained with"
                f" {self.sample_rate_hz} Hz: shard again with --sample-rate {self.sample_rate_hz}"
            )

    def label(self, text: str) -> str:
        return Path(text).name


class Identities(Modality):
    """Identities by their names, and by their places among those trained with."""

    def __init__(self, snapshot: Snapshot, section: condition.Modality, model: Path | None):
        listed = snapshot.corpus.identities
        if len(listed) != snapshot.facts.num_identities:
            raise ValueError(
                f"the snapshot lists {len(listed):,} identities, its encoder has {snapshot.facts.num_identities:,}"
            )
        self.classes = {identity: place for place, identity in enumerate(listed)}
        self.names = snapshot.corpus.identity_names
        self.absent = np.zeros(0, np.int64)

    def asked(self, text: str) -> np.ndarray:
        number = identity_number(text)
        if number not in self.classes:
            some = ", ".join(self.names[:10]) + (", ..." if len(self.names) > 10 else "")
            raise ValueError(
                f"identity {text!r} is none of the {len(self.classes):,} that the snapshot was trained with: give one"
                f" as the corpus writes it, such as {some}"
            )
        return np.array([self.classes[number]], np.int64)

    def held(self, sample: Held) -> np.ndarray:
        found = self.classes.get(sample.identity)
        return self.absent if found is None else np.array([found], np.int64)

    def check(self, manifest: Manifest, folder: str | Path) -> None:
        """Any shards will do: an identity that was not trained with is absent."""

    def label(self, text: str) -> str:
        return f"identity {text}"


READERS: dict[type[condition.Modality], type[Modality]] = {
    Lstm: Words,
    Stored: Sentences,
    LogMel: Voices,
    Waveform: Voices,
    OneHot: Identities,
}
