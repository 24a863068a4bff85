"""The shard format: member names, index records, manifest, and the reading of a sample.

Writing is in `t2f_dist.shard.writer`.

`shards/README.md` is the same contract in prose. Anything that changes what stands on the disk raises `VERSION`.
"""

import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

FORMAT = "t2f-dist-shards"
VERSION = 2
MANIFEST = "manifest.json"
VOCABULARY = "vocabulary.json"
REJECTED = "rejected.jsonl"
SplitName = Literal["train", "validation", "test"]
Kind = Literal["images", "captions", "voices"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
KINDS: tuple[Kind, ...] = ("images", "captions", "voices")

# In the order in which the index names them; all but the last are written to the tar in this order too.
# "lod" is reserved for raw small levels of detail and absent in version 2.
MEMBERS = ("image", "captions", "meta", "speech", "embeddings", "lod")
TAR_BLOCK = 512
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9]{1,9}), ([0-9]{1,9})\), \} *\n",
    re.DOTALL,
)
KEY_LENGTH_MAX = 90  # a ustar name holds 100 bytes; longer ones would need a header of another size

INDEX_DTYPE = np.dtype(
    [
        field
        for name in MEMBERS
        for field in ((f"{name}_offset", "<u8"), (f"{name}_length", "<u4"), (f"{name}_crc32", "<u4"))
    ]
    + [("identity", "<u8"), ("num_captions", "<u2"), ("speech_samples", "<u4")]
)


class DamagedSample(ValueError):
    """A member's bytes are not those that were written: short, or of another checksum."""


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(Record):
    """One tar and the index beside it."""

    name: str
    num_samples: int
    bytes: int
    sha256: str
    index: str
    index_sha256: str


class Split(Record):
    num_samples: int
    shards: tuple[Shard, ...]

    @model_validator(mode="after")
    def _adds_up(self) -> "Split":
        if self.num_samples != sum(shard.num_samples for shard in self.shards):
            raise ValueError(f"num_samples {self.num_samples} is not the sum over its shards")
        return self


class VocabularyFile(Record):
    file: str
    sha256: str
    num_words: int


class Embedding(Record):
    """Of what the caption embeddings are: of a sentence encoder, or as the corpus brought them."""

    size: int  # values a caption
    model: str  # the name of the encoder's folder; empty for a corpus
    sha256: str  # the fingerprint of the encoder's files (`t2f_dist.text.sentence`); empty for a corpus
    source: Literal["model", "corpus"]

    @model_validator(mode="after")
    def _whole(self) -> "Embedding":
        if self.size < 1 or bool(self.sha256) != (self.source == "model"):
            raise ValueError(f"an embedding of size {self.size} from {self.source!r} with sha256 {self.sha256!r}")
        return self


class Totals(Record):
    """What became of everything found in the corpus; `found` is always the sum of the other three.

    Unmatched: an image that no caption or voice names, or a caption or voice that names no image.
    """

    found: int
    stored: int
    rejected: int
    unmatched: int

    @model_validator(mode="after")
    def _adds_up(self) -> "Totals":
        if self.found != self.stored + self.rejected + self.unmatched:
            raise ValueError(f"found {self.found} is not stored + rejected + unmatched")
        return self


class Manifest(Record):
    """All that a reader needs to know of a directory of shards. Written last: its presence means a finished build."""

    format: Literal["t2f-dist-shards"] = FORMAT
    version: int = VERSION
    recipe: dict[str, Any]
    image_resolution: int
    image_format: Literal["jpg", "png"]
    sample_rate_hz: int | None  # None: a corpus without voices
    vocabulary: VocabularyFile | None  # None: a corpus without captions
    embedding: Embedding | None = None  # None: shards without caption embeddings
    splits: dict[SplitName, Split]
    totals: dict[Kind, Totals]

    @classmethod
    def load(cls, directory: str | Path) -> "Manifest":
        """Read and check `directory/manifest.json`.

        Raises:
            FileNotFoundError: no such directory, or a build that never finished.
            ValueError: not a manifest of this format and version, or one that was changed after it was written.
        """
        directory = Path(directory)
        path = directory / MANIFEST
        if not directory.is_dir():
            raise FileNotFoundError(
                f"no such directory of shards: {directory}; build it with t2f-dist shard (the configuration's header"
                " says how)"
            )
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: not a directory of shards, or a build that did not finish; "
                "run `t2f-dist shard` again"
            )
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is damaged (not JSON: {error}); build the shards again") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} is not a manifest of {FORMAT}")
        if content.get("version") != VERSION:
            raise ValueError(
                f"{path} is of format version {content.get('version')!r}; this t2f-dist reads {VERSION}: "
                "build the shards again, or use the t2f-dist that wrote them"
            )
        if content.pop("checksum", None) != digest(_canonical(content)):
            raise ValueError(f"{path} is damaged (its checksum does not match); build the shards again")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    def save(self, directory: str | Path) -> Path:
        """Write `directory/manifest.json` whole or not at all."""
        content = self.model_dump(mode="json")
        content["checksum"] = digest(_canonical(content))
        path = Path(directory) / MANIFEST
        write_file(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        return path

    @property
    def fingerprint(self) -> str:
        """sha256 over the ordered names, sizes, checksums and counts of all shards: the same data, the same value."""
        rows = [
            [split, shard.name, shard.bytes, shard.sha256, shard.num_samples]
            for split in SPLITS
            for shard in self.shards(split)
        ]
        return digest(json.dumps(rows).encode())

    @property
    def members(self) -> dict[str, str]:
        """Member -> file extension, for the members that every sample of this directory has in its tar."""
        return members(self.image_format, self.sample_rate_hz is not None, self.embedding is not None)

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

    def read_vocabulary(self, directory: str | Path) -> str:
        """The text of vocabulary.json, checked against the manifest, for `Vocabulary.from_json`.

        Raises:
            ValueError: the corpus has no captions, or the file is damaged.
        """
        if self.vocabulary is None:
            raise ValueError(f"the shards in {directory} hold no captions, so there is no vocabulary")
        path = Path(directory) / self.vocabulary.file
        content = path.read_bytes()
        if digest(content) != self.vocabulary.sha256:
            raise ValueError(f"{path} is damaged (its checksum does not match); build the shards again")
        return content.decode()


def members(image_format: str, with_speech: bool, with_embeddings: bool = False) -> dict[str, str]:
    """Member -> file extension, in tar order."""
    names = {"image": image_format, "captions": "txt", "meta": "json"}
    if with_speech:
        names["speech"] = "flac"
    if with_embeddings:
        names["embeddings"] = "npy"
    return names


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}.tar"


def identity_number(identity: str) -> int:
    """The identity as the index holds it: the first 8 bytes of its sha256, little-endian."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "little")


def captions(content: bytes) -> list[str]:
    """The captions of a sample, in order, from its `captions` member."""
    return content.decode().splitlines()


def embeddings(content: bytes) -> np.ndarray:
    """The embeddings of a sample's captions, in their order, from its `embeddings` member: float32 [num_captions, D].

    Raises:
        DamagedSample: not a .npy of version 1.0 of just that, or with values that are not finite.
    """
    # Not np.load, which takes other dtypes and orders too, and evaluates what stands in the header.
    header = _NPY.match(content)
    if header is None or int.from_bytes(header[1], "little") != header.end() - 10:
        raise DamagedSample("embeddings: not a .npy of version 1.0 with float32 [captions, values]")
    shape = int(header[2]), int(header[3])
    if len(content) != header.end() + 4 * math.prod(shape):
        raise DamagedSample(f"embeddings: {len(content)} bytes are not those of {list(shape)}")
    array = np.frombuffer(content, dtype="<f4", offset=header.end()).reshape(shape).copy()
    if not np.isfinite(array).all():
        raise DamagedSample("embeddings: values that are not finite")
    return array


def open_index(directory: str | Path, shard: Shard) -> np.ndarray:
    """The index of a shard: a memory-mapped array [num_samples] of INDEX_DTYPE records.

    Raises:
        FileNotFoundError: the index is not there.
        ValueError: it is not the one that was written beside this shard.
    """
    path = Path(directory) / shard.index
    with open(path, "rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != shard.index_sha256:
            raise ValueError(f"{path} is damaged (its checksum does not match); build the shards again")
    index = np.load(path, mmap_mode="r", allow_pickle=False)
    if index.dtype != INDEX_DTYPE or index.shape != (shard.num_samples,):
        raise ValueError(f"{path} is not an index of {shard.num_samples} samples of format version {VERSION}")
    return index


def open_shard(directory: str | Path, shard: Shard) -> int:
    """A file descriptor of the tar, for `member`; the caller closes it. Its size is checked, its bytes are not.

    Raises:
        FileNotFoundError: the tar is not there.
        ValueError: it is not of the size in the manifest.
    """
    path = Path(directory) / shard.name
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(descriptor).st_size
    if size != shard.bytes:
        os.close(descriptor)
        raise ValueError(f"{path} has {size} bytes where the manifest says {shard.bytes}; copy or build it again")
    return descriptor


def member(descriptor: int, record: np.void, name: str) -> bytes:
    """One member of a sample, its checksum verified; b"" if the sample has none.

    Args:
        descriptor: of the tar, open for reading.
        record: one record of the shard's index.
        name: one of MEMBERS.

    Raises:
        DamagedSample: fewer bytes than the index says, or other bytes.
    """
    length = int(record[f"{name}_length"])
    if length == 0:
        return b""
    offset = int(record[f"{name}_offset"])
    return _checked(os.pread(descriptor, length, offset), record, name)


def read_sample(descriptor: int, record: np.void, names: Sequence[str] = MEMBERS[:-1]) -> dict[str, bytes]:
    """Several members of a sample by one read: they stand side by side in the tar. As `member` otherwise."""
    spans = {
        name: (int(record[f"{name}_offset"]), int(record[f"{name}_length"]))
        for name in names
        if record[f"{name}_length"]
    }
    if not spans:
        return dict.fromkeys(names, b"")
    start = min(offset for offset, _ in spans.values())
    end = max(offset + length for offset, length in spans.values())
    content = os.pread(descriptor, end - start, start)
    return {
        name: _checked(content[spans[name][0] - start :][: spans[name][1]], record, name) if name in spans else b""
        for name in names
    }


def sample_key(descriptor: int, record: np.void) -> str:
    """The sample's key, from the tar header in front of its image. Not checksummed; for messages."""
    name = os.pread(descriptor, 100, int(record["image_offset"]) - TAR_BLOCK)
    return name.split(b"\0")[0].decode("ascii", "replace").partition(".")[0]


def _checked(content: bytes, record: np.void, name: str) -> bytes:
    if len(content) != record[f"{name}_length"]:
        raise DamagedSample(f"{name}: {len(content)} bytes where the index says {record[f'{name}_length']}")
    if zlib.crc32(content) != record[f"{name}_crc32"]:
        raise DamagedSample(f"{name}: its checksum does not match the index")
    return content


def write_file(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all: temporary name, fsync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False).encode()


def digest(content: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
