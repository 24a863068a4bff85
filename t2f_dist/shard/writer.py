"""The writing of one shard: samples into a tar, and the index and the small file beside it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import Shard

TAR_BLOCK = shard_format.TAR_BLOCK
TAR_RECORD = 20 * TAR_BLOCK  # to whose multiples a tar is filled up
_ZEROS = bytes(TAR_BLOCK)
_CAPTIONS_MAX = int(np.iinfo(shard_format.INDEX_DTYPE["num_captions"]).max)
_BUFFER_BYTES = 1 << 18
# A ustar header: name (100), mode, owner, group; size; time; checksum; kind, link, magic and the rest.
_HEADER_START = b"0000444\0" + 2 * b"0000000\0"
_HEADER_TIME = b"\0" + b"00000000000\0"
_HEADER_END = (b"\0 " + b"0" + bytes(100) + b"ustar\x0000").ljust(TAR_BLOCK - 154, b"\0")
# The checksum counts its own eight bytes as spaces.
_HEADER_SUM = sum(_HEADER_START) + sum(_HEADER_TIME) + sum(_HEADER_END[2:]) + 8 * ord(" ")

KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{shard_format.KEY_LENGTH_MAX}}}")


@dataclass(frozen=True)
class Sample:
    """What one sample is written from; `speech` is a mono PCM16 FLAC, or None.

    `levels` is its levels record (`t2f_dist.shard.levels`); `embeddings`, of shards that have them, float32
    [num_captions, D].
    """

    key: str
    identity: str
    image: bytes
    levels: bytes
    captions: Sequence[str]
    meta: dict[str, Any]
    speech: bytes | None = None
    speech_samples: int = 0
    embeddings: np.ndarray | None = None


class Written:
    """A file under a temporary name, hashed as it is written, and renamed when it is whole.

    As a context; what raises inside leaves no file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.bytes = 0
        # As t2f_dist.storage.disk.replacing names what is not finished: of no other process, and never listed.
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        self._stream: BinaryIO
        self._hash = hashlib.sha256()

    def __enter__(self) -> Written:
        self._stream = open(self._temporary, "wb", buffering=_BUFFER_BYTES)
        return self

    def write(self, content: bytes) -> int:
        self._hash.update(content)
        self.bytes += len(content)
        return self._stream.write(content)

    def tell(self) -> int:
        return self.bytes

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            with self._stream:
                if error is None:
                    self._stream.flush()
                    os.fsync(self._stream.fileno())
            if error is None:
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def write_shard(
    path: Path, samples: Iterator[Sample], image_format: str, with_speech: bool, with_embeddings: bool = False
) -> Shard | None:
    """Write a tar, its index and its small file, each under a temporary name and then renamed; the tar last.

    The bytes are a function of the samples alone. Returns None, and writes nothing, if there are no samples.

    Raises:
        ValueError: a key that WebDataset would cut (a dot, a slash) or that does not fit a tar header, or more captions
            of an image than an index can count.
    """
    extensions = shard_format.members(image_format, with_speech, with_embeddings)
    stem = path.name.removesuffix(".tar")
    records = []
    tar_file, small = Written(path), Written(path.with_name(f"{stem}.small"))
    try:
        with tar_file, small:
            for sample in samples:
                records.append(_write_sample(tar_file, small, sample, extensions))
            if not records:
                raise _Empty
            tar_file.write(bytes(-(-(tar_file.bytes + 2 * TAR_BLOCK) // TAR_RECORD) * TAR_RECORD - tar_file.bytes))
    except _Empty:
        return None
    index = write_index(path.with_name(f"{stem}.index.npy"), records)
    return Shard(
        name=path.name,
        num_samples=len(records),
        bytes=tar_file.bytes,
        sha256=tar_file.sha256,
        index=index.path.name,
        index_bytes=index.bytes,
        index_sha256=index.sha256,
        small=small.path.name,
        small_bytes=small.bytes,
        small_sha256=small.sha256,
    )


class _Empty(Exception):
    pass


def write_index(path: Path, records: Sequence[np.ndarray]) -> Written:
    """Records of INDEX_DTYPE as the index of a shard."""
    with Written(path) as index:
        index.write(shard_format.index_header(len(records)))
        index.write(np.array(records, dtype=shard_format.INDEX_DTYPE).tobytes())
    return index


def write_small(small: Written, record: np.ndarray, levels: bytes, captions: bytes) -> None:
    """A sample's levels record, which may be empty, and captions; fills in `lod` and the captions' length and CRC."""
    record["lod_offset"], record["lod_length"] = small.bytes, len(levels)
    record["lod_crc32"] = zlib.crc32(levels) if levels else 0
    record["captions_length"], record["captions_crc32"] = len(captions), zlib.crc32(captions)
    small.write(levels + captions)


def caption_lines(captions: Sequence[str]) -> bytes:
    """Captions as a sample's `captions` member."""
    assert all(len(caption.splitlines()) == 1 for caption in captions), "one caption, one line"
    return "".join(caption + "\n" for caption in captions).encode()


def _write_sample(tar: Written, small: Written, sample: Sample, extensions: dict[str, str]) -> np.ndarray:
    if not KEY.fullmatch(sample.key):
        raise ValueError(f"a key has up to {shard_format.KEY_LENGTH_MAX} letters, digits, - and _, not {sample.key!r}")
    contents = {
        "image": sample.image,
        "captions": caption_lines(sample.captions),
        "meta": json.dumps(sample.meta, ensure_ascii=False, sort_keys=True).encode(),
        "speech": sample.speech or b"",
    }
    if "embeddings" in extensions:
        assert sample.embeddings is not None and len(sample.embeddings) == len(sample.captions), "one each caption"
        contents["embeddings"] = npy(np.ascontiguousarray(sample.embeddings, dtype="<f4"))
    record = np.zeros((), dtype=shard_format.INDEX_DTYPE)
    if len(sample.captions) > _CAPTIONS_MAX:
        raise ValueError(f"{sample.key}: {len(sample.captions)} captions; an image has at most {_CAPTIONS_MAX}")
    pieces = []
    offset = tar.bytes
    for name, extension in extensions.items():
        content = contents[name]
        length = len(content)
        record[f"{name}_offset"] = offset + TAR_BLOCK
        record[f"{name}_length"] = length
        record[f"{name}_crc32"] = zlib.crc32(content)
        padding = -length % TAR_BLOCK
        pieces += (tar_header(f"{sample.key}.{extension}", length), content, _ZEROS[:padding])
        offset += TAR_BLOCK + length + padding
    tar.write(b"".join(pieces))
    assert tar.bytes == offset
    write_small(small, record, sample.levels, contents["captions"])
    record["identity"] = shard_format.identity_number(sample.identity)
    record["num_captions"] = len(sample.captions)
    record["speech_samples"] = sample.speech_samples
    return record


def tar_header(name: str, size: int) -> bytes:
    """The header of a plain file in a ustar tar, one block: owner, group and time are zero, all may read it.

    What tarfile writes with format=USTAR_FORMAT, byte for byte, without its way through an object each. (webdataset's
    TarWriter is a thin layer over tarfile, and importing webdataset loads torch.)

    Args:
        name: of up to 100 bytes, in ASCII.
        size: of the content, less than 8 GiB.
    """
    text, length = name.encode("ascii"), b"%011o" % size
    assert len(text) <= 100 and len(length) == 11
    checksum = b"%06o" % (_HEADER_SUM + sum(text) + sum(length))
    return b"".join((text.ljust(100, b"\0"), _HEADER_START, length, _HEADER_TIME, checksum, _HEADER_END))


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file of format 1.0."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
