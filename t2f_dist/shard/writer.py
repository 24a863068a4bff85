"""The writing of one shard: samples into a tar, and the index and the small file beside it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import Shard

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
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        self._stream: BinaryIO
        self._hash = hashlib.sha256()

    def __enter__(self) -> Written:
        self._stream = open(self._temporary, "wb")
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
        if error is None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self._stream.close()
        if error is None:
            os.replace(self._temporary, self.path)
        else:
            self._temporary.unlink()


def write_shard(
    path: Path, samples: Iterator[Sample], image_format: str, with_speech: bool, with_embeddings: bool = False
) -> Shard | None:
    """Write a tar, its index and its small file, each under a temporary name and then renamed; the tar last.

    The bytes are a function of the samples alone. Returns None, and writes nothing, if there are no samples.

    Raises:
        ValueError: a key that WebDataset would cut (a dot, a slash) or that does not fit a tar header.
    """
    extensions = shard_format.members(image_format, with_speech, with_embeddings)
    stem = path.name.removesuffix(".tar")
    records = []
    tar_file, small = Written(path), Written(path.with_name(f"{stem}.small"))
    try:
        # tarfile itself: webdataset's TarWriter is a thin layer over it, and importing webdataset loads torch.
        with tar_file, small, tarfile.open(fileobj=tar_file, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[arg-type]
            for sample in samples:
                records.append(_write_sample(tar, small, sample, extensions))
            if not records:
                raise _Empty
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


def _write_sample(tar: tarfile.TarFile, small: Written, sample: Sample, extensions: dict[str, str]) -> np.ndarray:
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
    for name, extension in extensions.items():
        content = contents[name]
        offset = tar.offset + shard_format.TAR_BLOCK
        header = tarfile.TarInfo(f"{sample.key}.{extension}")  # owner, group and time stay zero: reproducible
        header.size, header.mode = len(content), 0o444
        tar.addfile(header, io.BytesIO(content))
        assert tar.offset == offset + -(-len(content) // shard_format.TAR_BLOCK) * shard_format.TAR_BLOCK, (
            "a header is one block"
        )
        record[f"{name}_offset"] = offset
        record[f"{name}_length"] = len(content)
        record[f"{name}_crc32"] = zlib.crc32(content)
    write_small(small, record, sample.levels, contents["captions"])
    record["identity"] = shard_format.identity_number(sample.identity)
    record["num_captions"] = len(sample.captions)
    record["speech_samples"] = sample.speech_samples
    return record


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file of format 1.0."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
