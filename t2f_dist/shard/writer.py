"""The writing of one shard: samples into a tar and the index beside it."""

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
from typing import Any

import numpy as np

from t2f_dist.shard import format as shard_format


@dataclass(frozen=True)
class Sample:
    """What one sample is written from; `speech` is a mono PCM16 FLAC, or None.

    `embeddings`, of shards that have them: float32 [num_captions, D].
    """

    key: str
    identity: str
    image: bytes
    captions: Sequence[str]
    meta: dict[str, Any]
    speech: bytes | None = None
    speech_samples: int = 0
    embeddings: np.ndarray | None = None


def write_shard(
    path: Path, samples: Iterator[Sample], image_format: str, with_speech: bool, with_embeddings: bool = False
) -> shard_format.Shard | None:
    """Write a tar and its index, each under a temporary name and then renamed: the index first, then the tar.

    The bytes are a function of the samples alone. Returns None, and writes nothing, if there are no samples.

    Raises:
        ValueError: a key that WebDataset would cut (a dot, a slash) or that does not fit a tar header.
    """
    extensions = shard_format.members(image_format, with_speech, with_embeddings)
    temporary = path.with_name(path.name + ".tmp")
    records = []
    with open(temporary, "wb") as stream:
        # tarfile itself: webdataset's TarWriter is a thin layer over it, and importing webdataset loads torch.
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                records.append(_write_sample(tar, sample, extensions))
        stream.flush()
        os.fsync(stream.fileno())
    if not records:
        temporary.unlink()
        return None
    index_path = path.with_name(path.name.removesuffix(".tar") + ".index.npy")
    index_content = _npy(np.array(records, dtype=shard_format.INDEX_DTYPE))
    shard_format.write_file(index_path, index_content)
    with open(temporary, "rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    os.replace(temporary, path)
    return shard_format.Shard(
        name=path.name,
        num_samples=len(records),
        bytes=path.stat().st_size,
        sha256=sha256,
        index=index_path.name,
        index_sha256=shard_format.digest(index_content),
    )


def _write_sample(tar: tarfile.TarFile, sample: Sample, extensions: dict[str, str]) -> np.ndarray:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", sample.key) or len(sample.key) > shard_format.KEY_LENGTH_MAX:
        raise ValueError(f"a key has up to {shard_format.KEY_LENGTH_MAX} letters, digits, - and _, not {sample.key!r}")
    assert all(len(caption.splitlines()) == 1 for caption in sample.captions), "one caption, one line"
    contents = {
        "image": sample.image,
        "captions": "".join(caption + "\n" for caption in sample.captions).encode(),
        "meta": json.dumps(sample.meta, ensure_ascii=False, sort_keys=True).encode(),
        "speech": sample.speech or b"",
    }
    if "embeddings" in extensions:
        assert sample.embeddings is not None and len(sample.embeddings) == len(sample.captions), "one each caption"
        contents["embeddings"] = _npy(np.ascontiguousarray(sample.embeddings, dtype="<f4"))
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
    record["identity"] = shard_format.identity_number(sample.identity)
    record["num_captions"] = len(sample.captions)
    record["speech_samples"] = sample.speech_samples
    return record


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()
