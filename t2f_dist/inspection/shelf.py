"""A directory of shards, here or at a URL, opened to be looked at: indices, small files, some samples."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from t2f_dist.shard import format as shard_format
from t2f_dist.shard import levels
from t2f_dist.shard.manifest import Manifest, Shard, locate
from t2f_dist.storage import disk, url
from t2f_dist.storage.folder import Folder

LIST_BYTES_MAX = 1 << 34  # of a remote file of lines, of which the manifest does not say how long it is
UNFINISHED = ".build/plan.json"  # stands there from the beginning of a build, or of an extension, to its end


class Shelf:
    """Remote files are fetched one at a time, and removed again; of remote tars only the samples asked for.

    No more is fetched of a file than the manifest says that it has, and no more of it is in memory than is asked for.
    A context manager, for what is fetched.

    Raises:
        FileNotFoundError, ValueError, OSError: there is no manifest that can be read.
    """

    def __init__(self, place: str | Path):
        self.place = place
        self.folder = Folder(place)
        self.manifest = Manifest.load(place)
        self._fetched = tempfile.TemporaryDirectory(prefix="t2f-dist-")

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._fetched.cleanup()

    def has_tar(self, shard: Shard) -> bool:
        """Whether a shard's tar stands on this machine."""
        return not url.is_url(locate(self.place, shard.name))

    @contextlib.contextmanager
    def lines(self, name: str) -> Iterator[BinaryIO]:
        """A file beside the manifest, of any length, to be read piece by piece."""
        with self._here(name, LIST_BYTES_MAX) as path, disk.opened(path) as stream:
            yield stream

    @property
    def _listable(self) -> bool:
        """Of web servers no files can be listed, and some say of one that is not there that it is forbidden."""
        return self.folder.is_local or url.scheme(self.folder.place) not in ("http", "https")

    def unfinished(self) -> bool:
        """Whether a build has begun here that has not ended: beside a manifest, one that extends the shards."""
        return self._listable and self.folder.entry(UNFINISHED) is not None

    @contextlib.contextmanager
    def index(self, shard: Shard) -> Iterator[np.ndarray]:
        """As `format.open_index`; what a record says of the small file is no reason to want memory either."""
        with self._here(shard.index, shard.index_bytes) as path:
            index = shard_format.open_index(path, shard)
            bounds = {"lod": max(levels.ENDS.values()), "captions": shard_format.MEMBER_BYTES_MAX}
            for name, most in bounds.items():
                if (index[f"{name}_length"] > most).any():
                    raise ValueError(f"{path}: a member {name} of more than {most} bytes; build the shards again")
            yield index

    @contextlib.contextmanager
    def small(self, shard: Shard) -> Iterator[int]:
        """As `format.open_small`, closed at the end."""
        with (
            self._here(shard.small, shard.small_bytes) as path,
            _closing(shard_format.open_small(path, shard)) as descriptor,
        ):
            yield descriptor

    @contextlib.contextmanager
    def tar(self, shard: Shard, records: np.ndarray) -> Iterator[int]:
        """A descriptor from which the samples of `records` can be read, and of a remote tar no others."""
        place = locate(self.place, shard.name)
        if not url.is_url(place):
            with _closing(shard_format.open_shard(place, shard)) as descriptor:
                yield descriptor
            return
        parent, _, name = place.rpartition("/")
        folder = Folder(parent)
        with tempfile.TemporaryFile(dir=self._fetched.name) as sparse:
            os.ftruncate(sparse.fileno(), shard.bytes)  # a hole as large as the tar
            for record in records:
                for start, end in _spans(record):
                    os.pwrite(sparse.fileno(), folder.read(name, start, end - start), start)
            yield sparse.fileno()

    @contextlib.contextmanager
    def whole_tar(self, shard: Shard) -> Iterator[int]:
        """As `format.open_shard`, of all of it, closed at the end."""
        place = locate(self.place, shard.name)
        if not url.is_url(place):
            with _closing(shard_format.open_shard(place, shard)) as descriptor:
                yield descriptor
            return
        parent, _, name = place.rpartition("/")
        tar = shard.index.replace(".index.npy", ".tar")  # whose name is made for a file
        with (
            self._fetch(Folder(parent), name, shard.bytes, tar) as path,
            _closing(shard_format.open_shard(path, shard)) as descriptor,
        ):
            yield descriptor

    def names(self) -> list[str]:
        """Of the files beside the manifest; none where they cannot be listed, which is so of web servers."""
        if self.folder.is_local:
            return sorted(os.listdir(self.folder.path))
        if not self._listable:
            return []
        return [entry.name for entry in self.folder.list() if "/" not in entry.name]

    @contextlib.contextmanager
    def _here(self, name: str, max_bytes: int) -> Iterator[Path]:
        if self.folder.is_local:
            yield self.folder.path / name
            return
        with self._fetch(self.folder, name, max_bytes, name) as path:
            yield path

    @contextlib.contextmanager
    def _fetch(self, folder: Folder, name: str, max_bytes: int, file: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._fetched.name) as below:

            def check(_: int) -> None:
                if sum(path.stat().st_size for path in Path(below).iterdir()) > max_bytes:
                    raise ValueError(f"{file} has more than {max_bytes} bytes; copy or build it again")

            folder.fetch(name, Path(below) / file, check)
            yield Path(below) / file


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _spans(record: np.void) -> list[tuple[int, int]]:
    """The parts of the tar that hold a sample, from the header of its image on; nearby ones as one."""
    spans: list[tuple[int, int]] = []
    header = max(0, int(record["image_offset"]) - shard_format.TAR_BLOCK)
    members = [(header, header + shard_format.TAR_BLOCK)]
    for name in shard_format.TAR_MEMBERS:
        offset, length = int(record[f"{name}_offset"]), int(record[f"{name}_length"])
        members += [(offset, offset + length)] if length else []
    for start, end in sorted(members):
        if spans and start - spans[-1][1] <= shard_format.GAPS_MAX:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans
