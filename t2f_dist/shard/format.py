"""The shard format: member names, index records, and the reading of a sample.

The manifest is in `t2f_dist.shard.manifest`, the small file in `t2f_dist.shard.levels`, the writing in
`t2f_dist.shard.writer`. `shards/README.md` is the same contract in prose. Anything that changes what stands on the disk
raises `manifest.VERSION`.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from t2f_dist.shard import levels
from t2f_dist.shard.manifest import INDEX_HEADER_BYTES, INDEX_RECORD_BYTES, Shard

# In the order in which the index names them; all but the last are written to the tar in this order too.
# "lod" is the levels record, in the small file; a copy of the captions follows it there.
MEMBERS = ("image", "captions", "meta", "speech", "embeddings", "lod")
TAR_MEMBERS = MEMBERS[:-1]
TAR_BLOCK = 512
GAPS_MAX = 16 * TAR_BLOCK  # between the members of a sample: headers, padding, members that are not wanted
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9]{1,9}), ([0-9]{1,9})\), \} *\n",
    re.DOTALL,
)
MEMBER_BYTES_MAX = 1 << 28  # of a sample, so that what a record claims is never a reason to want more memory
KEY_LENGTH_MAX = 90  # a ustar name holds 100 bytes; longer ones would need a header of another size

INDEX_DTYPE = np.dtype(
    [
        field
        for name in MEMBERS
        for field in ((f"{name}_offset", "<u8"), (f"{name}_length", "<u4"), (f"{name}_crc32", "<u4"))
    ]
    + [("identity", "<u8"), ("num_captions", "<u2"), ("speech_samples", "<u4")]
)
assert INDEX_DTYPE.itemsize == INDEX_RECORD_BYTES


class DamagedSample(ValueError):
    """A member's bytes are not those that were written: short, or of another checksum."""


def members(image_format: str, with_speech: bool, with_embeddings: bool = False) -> dict[str, str]:
    """Member -> file extension, in tar order."""
    names = {"image": image_format, "captions": "txt", "meta": "json"}
    if with_speech:
        names["speech"] = "flac"
    if with_embeddings:
        names["embeddings"] = "npy"
    return names


def identity_number(identity: str) -> int:
    """The identity as the index holds it: the first 8 bytes of its sha256, little-endian."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "little")


def captions(content: bytes) -> list[str]:
    """The captions of a sample, in order, from its `captions` member. Raises DamagedSample where it is not text."""
    try:
        return content.decode().splitlines()
    except UnicodeDecodeError:
        raise DamagedSample("captions: not UTF-8") from None


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


def open_index(path: str | Path, shard: Shard) -> np.ndarray:
    """The index of a shard, from the file at `path`: a memory-mapped array [num_samples] of INDEX_DTYPE records.

    Every record stays within the tar and the small file.

    Raises:
        FileNotFoundError: the index is not there.
        ValueError: it is not the one that was written beside this shard.
    """
    header = index_header(shard.num_samples)
    with open(path, "rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != shard.index_sha256:
            raise ValueError(f"{path} is damaged (its checksum does not match); build the shards again")
        stream.seek(0)
        found = stream.read(len(header))
    # Not np.load, which evaluates what stands in a header.
    if found != header or os.path.getsize(path) != len(header) + shard.num_samples * INDEX_DTYPE.itemsize:
        raise ValueError(f"{path} is not an index of {shard.num_samples} samples of this format version")
    index = np.memmap(path, INDEX_DTYPE, "r", len(header), (shard.num_samples,))
    reason = misplaced(index, shard)
    if reason:
        raise ValueError(f"{path}: {reason}; build the shards again")
    return index


def parse_index(content: bytes, shard: Shard) -> np.ndarray:
    """As `open_index`, of the bytes of the file. Raises ValueError."""
    header = index_header(shard.num_samples)
    if hashlib.sha256(content).hexdigest() != shard.index_sha256 or not content.startswith(header):
        raise ValueError(f"{shard.index} is damaged (its checksum does not match); build the shards again")
    if len(content) != len(header) + shard.num_samples * INDEX_DTYPE.itemsize:
        raise ValueError(f"{shard.index} is not an index of {shard.num_samples} samples of this format version")
    index = np.frombuffer(content, INDEX_DTYPE, offset=len(header))
    reason = misplaced(index, shard)
    if reason:
        raise ValueError(f"{shard.index}: {reason}; build the shards again")
    return index


def misplaced(index: np.ndarray, shard: Shard) -> str:
    """Why the records of an index cannot be read from its shard; empty if they can."""
    sizes = dict.fromkeys(TAR_MEMBERS, shard.bytes) | {"lod": shard.small_bytes}
    for name, size in sizes.items():
        offset, length = index[f"{name}_offset"], index[f"{name}_length"].astype(np.uint64)
        if name == "captions":  # where their copy ends, in the small file
            copy = index["lod_offset"] + index["lod_length"].astype(np.uint64)
            if (copy > shard.small_bytes).any() or (length > np.uint64(shard.small_bytes) - copy).any():
                return "the copy of a sample's captions lies outside of the small file"
        if name == "captions":  # of a foreign tar at 0, where no payload can be: they stand in the small file alone
            length = np.where(offset == 0, 0, length)
        if (offset > size).any() or (length > np.uint64(size) - offset).any():
            return f"a member {name} lies outside of its file of {size} bytes"
        if name != "lod" and (length > MEMBER_BYTES_MAX).any():
            return f"a member {name} of more than {MEMBER_BYTES_MAX} bytes"
    if (index["image_length"] == 0).any() or (index["image_offset"] < TAR_BLOCK).any():
        return "a sample without an image"
    return ""


def index_header(num_samples: int) -> bytes:
    """The header of an index's file: .npy of format 1.0, of which NumPy's own padding differs by version."""
    text = f"{{'descr': {INDEX_DTYPE.descr!r}, 'fortran_order': False, 'shape': ({num_samples},), }}"
    length = -(-(10 + len(text) + 1) // 64) * 64 - 10
    assert 10 + length == INDEX_HEADER_BYTES
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"


def open_shard(path: str | Path, shard: Shard) -> int:
    """A file descriptor of the tar at `path`, for `member`; the caller closes it. Its size is checked, not its bytes.

    Raises:
        FileNotFoundError: the tar is not there.
        ValueError: it is not of the size in the manifest.
    """
    return _open(path, shard.bytes)


def open_small(path: str | Path, shard: Shard) -> int:
    """As `open_shard`, of the small file."""
    return _open(path, shard.small_bytes)


def _open(path: str | Path, expected: int) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    size = os.fstat(descriptor).st_size
    if size != expected:
        os.close(descriptor)
        raise ValueError(f"{path} has {size} bytes where the manifest says {expected}; copy or build it again")
    return descriptor


def member(descriptor: int, record: np.void, name: str) -> bytes:
    """One member of a sample, its checksum verified; b"" if the sample has none.

    Args:
        descriptor: of the tar, open for reading; for `lod` of the small file.
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


def read_sample(descriptor: int, record: np.void, names: Sequence[str] = TAR_MEMBERS) -> dict[str, bytes]:
    """Several members of a sample by one read: they stand side by side in the tar. As `member` otherwise.

    Members of a foreign tar that stand far apart are read one by one.
    """
    spans = {
        name: (int(record[f"{name}_offset"]), int(record[f"{name}_length"]))
        for name in names
        if record[f"{name}_length"]
    }
    if not spans:
        return dict.fromkeys(names, b"")
    start = min(offset for offset, _ in spans.values())
    end = max(offset + length for offset, length in spans.values())
    if end - start > sum(length for _, length in spans.values()) + GAPS_MAX:
        return {name: member(descriptor, record, name) for name in names}
    content = os.pread(descriptor, end - start, start)
    return {
        name: _checked(content[spans[name][0] - start :][: spans[name][1]], record, name) if name in spans else b""
        for name in names
    }


def sample_key(descriptor: int, record: np.void) -> str:
    """The sample's key, from the tar header in front of its image. Not checksummed; for messages."""
    name = os.pread(descriptor, 100, int(record["image_offset"]) - TAR_BLOCK)
    return name.split(b"\0")[0].decode("ascii", "replace").partition(".")[0]


def captions_copy(descriptor: int, record: np.void) -> bytes:
    """The captions of a sample from the small file, as `captions` takes them. Raises DamagedSample."""
    length = int(record["captions_length"])
    if length == 0:
        return b""
    offset = int(record["lod_offset"]) + int(record["lod_length"])
    return _checked(os.pread(descriptor, length, offset), record, "captions")


def level(descriptor: int, record: np.void, resolution: int) -> np.ndarray:
    """One of a sample's small levels, from the small file: uint8 [3, r, r]. Raises DamagedSample."""
    try:
        return levels.parse(os.pread(descriptor, levels.ENDS[resolution], int(record["lod_offset"])), resolution)
    except ValueError as error:
        raise DamagedSample(f"lod: {error}") from None


def _checked(content: bytes, record: np.void, name: str) -> bytes:
    if len(content) != record[f"{name}_length"]:
        raise DamagedSample(f"{name}: {len(content)} bytes where the index says {record[f'{name}_length']}")
    if zlib.crc32(content) != record[f"{name}_crc32"]:
        raise DamagedSample(f"{name}: its checksum does not match the index")
    return content
