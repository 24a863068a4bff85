"""The manifest of a directory of shards: all that a reader needs to know before it opens one."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from t2f_dist.config.numbers import SampleRate
from t2f_dist.config.recipe import ImageRecipe
from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder

FORMAT = "t2f-dist-shards"
VERSION = 3
MANIFEST = "manifest.json"
VOCABULARY = "vocabulary.json"
REJECTED = "rejected.jsonl"
MANIFEST_BYTES_MAX = 1 << 30  # a million shards are about 400 MB
VOCABULARY_BYTES_MAX = 1 << 28
SAMPLES_MAX = 1 << 20  # of a shard: what a manifest claims is never a reason to want more memory
INDEX_HEADER_BYTES, INDEX_RECORD_BYTES = 640, 110  # of an index (`t2f_dist.shard.format`), however many its samples
SAMPLE_BYTES_MIN = 1024  # of a sample in a tar: a header and a block of its image
SplitName = Literal["train", "validation", "test"]
Kind = Literal["images", "captions", "voices"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
KINDS: tuple[Kind, ...] = ("images", "captions", "voices")

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def _file_name(name: str) -> str:
    """A file beside the manifest: a name that leads nowhere else."""
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a file beside the manifest")
    return name


def _tar_name(name: str) -> str:
    return url.check(name) if url.is_url(name) else _file_name(name)


FileName = Annotated[str, AfterValidator(_file_name)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(Record):
    """One tar, and beside the manifest its index and its small file (`t2f_dist.shard.levels`).

    Attributes:
        name: of the tar beside the manifest, or the URL of one that stands elsewhere.
    """

    name: Annotated[str, AfterValidator(_tar_name)]
    num_samples: Annotated[int, Field(strict=True, ge=1, le=SAMPLES_MAX)]
    bytes: Count
    sha256: Sha256
    index: FileName
    index_bytes: Count
    index_sha256: Sha256
    small: FileName
    small_bytes: Count
    small_sha256: Sha256

    @model_validator(mode="after")
    def _plausible(self) -> Shard:
        if self.index_bytes != INDEX_HEADER_BYTES + INDEX_RECORD_BYTES * self.num_samples:
            raise ValueError(f"index_bytes {self.index_bytes} are not those of num_samples {self.num_samples}")
        if self.bytes < SAMPLE_BYTES_MIN * self.num_samples:
            raise ValueError(f"a tar of {self.bytes} bytes is too short for num_samples {self.num_samples}")
        return self


class Split(Record):
    num_samples: Count
    shards: tuple[Shard, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> Split:
        if self.num_samples != sum(shard.num_samples for shard in self.shards):
            raise ValueError(f"num_samples {self.num_samples} is not the sum over its shards")
        return self


class VocabularyFile(Record):
    file: FileName
    sha256: Sha256
    num_words: Count


class RejectedFile(Record):
    file: FileName
    sha256: Sha256


class Embedding(Record):
    """Of what the caption embeddings are: of a sentence encoder, or as the corpus brought them."""

    size: int  # values a caption
    model: str  # the name of the encoder's folder; empty for a corpus
    sha256: str  # the fingerprint of the encoder's files (`t2f_dist.text.sentence`); empty for a corpus
    source: Literal["model", "corpus"]

    @model_validator(mode="after")
    def _whole(self) -> Embedding:
        if self.size < 1 or bool(self.sha256) != (self.source == "model"):
            raise ValueError(f"an embedding of size {self.size} from {self.source!r} with sha256 {self.sha256!r}")
        return self


class Totals(Record):
    """What became of everything found in the corpus; `found` is always the sum of the other three.

    Unmatched: an image that no caption or voice names, or a caption or voice that names no image.
    """

    found: Count
    stored: Count
    rejected: Count
    unmatched: Count

    @model_validator(mode="after")
    def _adds_up(self) -> Totals:
        if self.found != self.stored + self.rejected + self.unmatched:
            raise ValueError(f"found {self.found} is not stored + rejected + unmatched")
        return self


class Manifest(Record):
    """All that a reader needs to know of a directory of shards. Written last: its presence means a finished build."""

    format: Literal["t2f-dist-shards"] = FORMAT
    version: int = VERSION
    recipe: dict[str, Any]
    extensions: tuple[dict[str, Any], ...] = ()  # recipes of what was added later
    corpus_sha256: Sha256 | None = None  # of what was found in the corpus, by name and size; None: tars of others
    image_resolution: Annotated[int, Field(ge=4, le=1024)]
    image_format: Literal["jpg", "png", "any"]
    squared: bool = True  # stored as squares of that resolution; else they are brought to it on reading, by the recipe
    sample_rate_hz: SampleRate | None  # None: a corpus without voices
    vocabulary: VocabularyFile | None  # None: a corpus without captions
    embedding: Embedding | None = None  # None: shards without caption embeddings
    rejected: RejectedFile
    duplicates: Count | None = None  # images with the same bytes as another; None: not looked for
    splits: dict[SplitName, Split]
    totals: dict[Kind, Totals]

    @model_validator(mode="after")
    def _readable(self) -> Manifest:
        if not self.squared and ("image" not in self.recipe or self.image.resolution != self.image_resolution):
            raise ValueError(f"no recipe that brings its images to squares of {self.image_resolution}")
        return self

    @property
    def image(self) -> ImageRecipe:
        """How images were, or are, brought to squares. Raises ValueError where the recipe says nothing readable."""
        return ImageRecipe.model_validate(self.recipe.get("image", {}))

    @classmethod
    def load(cls, place: str | Path) -> Manifest:
        """Read and check `manifest.json` of a local directory or a URL.

        Raises:
            FileNotFoundError: no such directory, or a build that never finished.
            ValueError: not a manifest of this format and version, or one that was changed after it was written.
            OSError: it cannot be read.
        """
        folder = Folder(place)
        path = url.join(str(place), MANIFEST)
        if folder.is_local and not folder.path.is_dir():
            raise FileNotFoundError(
                f"no such directory of shards: {place}; build it with t2f-dist shard (those of the demo: make demo)"
            )
        if (folder.size(MANIFEST) or 0) > MANIFEST_BYTES_MAX:
            raise ValueError(f"{url.shown(path)} has more than {MANIFEST_BYTES_MAX} bytes: no manifest")
        try:
            content = json.loads(folder.read(MANIFEST))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{url.shown(path)} is missing: not a directory of shards, or a build that did not finish; "
                "run `t2f-dist shard` again"
            ) from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{url.shown(path)} is damaged (not JSON: {error}); build the shards again") from None
        manifest = cls.parse(content, url.shown(path))
        if not folder.is_local:
            names = (shard.name for split in manifest.splits.values() for shard in split.shards)
            local = next((name for name in names if url.scheme(name) == "file"), None)
            if local:
                raise ValueError(f"{url.shown(path)} names {local}: a manifest from elsewhere may not name local files")
        return manifest

    @classmethod
    def parse(cls, content: Any, shown: str) -> Manifest:
        """From decoded JSON. Raises ValueError, naming `shown`."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{shown} is not a manifest of {FORMAT}")
        if content.get("version") != VERSION:
            raise ValueError(
                f"{shown} is of format version {content.get('version')!r}; this t2f-dist reads {VERSION}: "
                "build the shards again, or use the t2f-dist that wrote them"
            )
        try:
            whole = content.pop("checksum", None) == digest(_canonical(content))
        except RecursionError:
            raise ValueError(f"{shown} is damaged (too deeply nested); build the shards again") from None
        if not whole:
            raise ValueError(f"{shown} is damaged (its checksum does not match); build the shards again")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            text = " ".join(f"{'.'.join(map(str, first['loc']))}: {first['msg']}".split())
            raise ValueError(f"{shown}: {text if len(text) <= 500 else text[:500] + '...'}") from None

    def save(self, place: str | Path) -> None:
        """Write `manifest.json` whole or not at all."""
        content = self.model_dump(mode="json")
        content["checksum"] = digest(_canonical(content))
        Folder(place).write(MANIFEST, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    @property
    def fingerprint(self) -> str:
        """sha256 over all that decides what a run reads: the same data, the same value.

        The names, sizes, checksums and counts of all shards in order, with the checksums of their indices and small
        files; the vocabulary; the resolution; and of tars of others how their images are brought to it.
        """
        rows = [
            [split, each.name, each.bytes, each.sha256, each.num_samples, each.index_sha256, each.small_sha256]
            for split in SPLITS
            for each in self.shards(split)
        ]
        words = None if self.vocabulary is None else self.vocabulary.sha256
        image = None if self.squared else self.recipe["image"]
        return digest(json.dumps([rows, words, self.image_resolution, image], sort_keys=True).encode())

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split in order; none for a split that is empty.

        Raises:
            ValueError: `split` is not train, validation or test.
        """
        if split not in SPLITS:
            raise ValueError(f"no such split: {split!r}; the splits are {', '.join(SPLITS)}")
        return self.splits[split].shards if split in self.splits else ()

    def num_samples(self, split: str) -> int:
        return sum(shard.num_samples for shard in self.shards(split))

    def read_vocabulary(self, place: str | Path) -> str:
        """The text of the vocabulary's file, checked against the manifest, for `Vocabulary.from_json`.

        Raises:
            ValueError: the corpus has no captions, or the file is damaged.
            OSError: it cannot be read.
        """
        if self.vocabulary is None:
            raise ValueError(f"the shards in {place} hold no captions, so there is no vocabulary")
        shown = url.shown(url.join(str(place), self.vocabulary.file))
        content = Folder(place).read(self.vocabulary.file, 0, VOCABULARY_BYTES_MAX)
        if digest(content) != self.vocabulary.sha256:
            raise ValueError(f"{shown} is damaged (its checksum does not match); build the shards again")
        return content.decode()


def locate(place: str | Path, name: str) -> str:
    """The path or URL of a file of a directory of shards: beside the manifest, or where its URL says.

    A `file://` URL becomes a path.
    """
    where = name if url.is_url(name) else url.join(str(place), name)
    path = url.local(where)
    return where if path is None else str(path)


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")


def digest(content: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
