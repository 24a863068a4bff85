"""Files that are not on this machine, through fsspec: with timeouts, tried again within bounds, in bounded memory.

Every library below fsspec repeats calls by itself, each with its own patience; that is switched off where it can be,
so that the tries and waits are those of Patience and an error comes after a time that can be told beforehand.

Credentials are found by the libraries in the environment (AWS_ACCESS_KEY_ID ..., GOOGLE_APPLICATION_CREDENTIALS,
HF_TOKEN), and the address of a server that speaks S3 in AWS_ENDPOINT_URL. Neither is ever written into a message.
"""

import contextlib
import importlib
import io
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from t2f_dist.storage import patience, url
from t2f_dist.storage.disk import Entry, checked
from t2f_dist.storage.patience import Patience
from t2f_dist.storage.pieces import Pieces

BLOCK_BYTES = 8 << 20  # of one request of a file that is fetched
BLOCKS = 4  # such requests at the same time, which take some 70 MB
PART_BYTES = 16 << 20  # of one request of a file that is stored; larger, where there would be more than 10,000
_PARTS_MAX = 10_000
_PAGE_BYTES = 1 << 20  # more than a page of a listing has

WEB = ("http", "https")  # servers that are only read, and of which nothing is listed
_WHOLE = (*WEB, "hf")  # of which a file is fetched in one stream: not every server gives ranges
# What has to be there for a scheme, and the extra that brings it.
_NEEDS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "http": ("aiohttp", "http"), "https": ("aiohttp", "http")}
_NEEDS |= {"hf": ("huggingface_hub", "hf")}
_STAMPS = ("ETag", "etag", "md5Hash", "crc32c", "blob_id", "oid", "LastModified", "mtime", "Last-Modified")

# By process too: after a fork neither the sockets nor the thread of an inherited one are of use, and it is left alone,
# since closing it would speak on the connections of the parent.
_opened: dict[tuple[int, str, Patience, tuple[str | None, ...]], Any] = {}
# What the libraries look at when a filesystem is opened; where one of these has changed, another is opened.
_ENVIRONMENT = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_ENVIRONMENT += ("AWS_SESSION_TOKEN", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS", "HF_TOKEN", "HF_ENDPOINT")


def filesystem(place: str, given: Patience) -> Any:
    """The fsspec filesystem of a URL, one a process, patience and environment.

    Raises:
        ValueError: the library for its scheme is not installed.
    """
    kind = url.scheme(place)
    key = os.getpid(), kind, given, tuple(os.environ.get(name) for name in _ENVIRONMENT)
    if key not in _opened:
        library, extra = _NEEDS[kind]
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise ValueError(
                f"{url.shown(place)}: {kind}:// needs {library} ({error}): pip install 't2f-dist[{extra}]'"
            ) from None
        _opened[key] = _open(kind, given)
    return _opened[key]


def _open(kind: str, given: Patience) -> Any:
    import fsspec  # here, since local folders need none of it

    common: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if kind == "s3":
        timeouts = {"connect_timeout": given.connect_seconds, "read_timeout": given.read_seconds}
        # Some stores send the checksum of the whole file with a part of it. Shards carry checksums of their own.
        rest = {"retries": {"total_max_attempts": 1}, "response_checksum_validation": "when_required"}
        found: Any = fsspec.filesystem(kind, config_kwargs={**timeouts, **rest}, **common)
        found.retries = 1
        return found
    if kind in WEB:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=given.connect_seconds, sock_read=given.read_seconds)
        # What is compressed on the way has another length than the file, and no ranges.
        client = {"timeout": timeout, "trust_env": True, "headers": {"Accept-Encoding": "identity"}}
        return fsspec.filesystem(kind, client_kwargs=client, **common)
    if kind == "gs":
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=given.connect_seconds, sock_read=given.read_seconds)
        return fsspec.filesystem(kind, requests_timeout=timeout, **common)
    return fsspec.filesystem(kind, **common)


@dataclass(frozen=True)
class Remote:
    """What stands below a URL; the methods are those of storage.folder.Folder."""

    place: str
    patience: Patience

    def list(self, prefix: str) -> list[Entry]:
        if url.scheme(self.place) in WEB:
            raise ValueError(
                f"{url.shown(self.place)}: files of a web server cannot be listed; name them, with a pattern such as "
                "x-{000..099}.tar"
            )
        return sorted(entry for entry in self._listed(prefix.rpartition("/")[0]) if entry.name.startswith(prefix))

    def entry(self, name: str) -> Entry | None:
        try:
            found = self._info(name)
        except FileNotFoundError:
            return None
        return Entry(name, -1 if found["size"] is None else int(found["size"]), _stamp(found))

    def read(self, name: str, start: int, length: int | None, bytes_max: int | None = None) -> bytes:
        if length == 0:
            return b""
        web = url.scheme(self.place) in WEB
        if web and start == 0 and length is None:  # it may know no ranges, so it is asked for none without need
            return self._read_stream(name, bytes_max)
        most = length
        if bytes_max is not None and (most is None or most > bytes_max):
            most = bytes_max + 1  # which tells more from as many
        end = None if most is None else start + most
        given = {"start": start, "end": end}  # s3fs without a range asks twice
        try:
            content = self._call(name, "cat_file", num_bytes=most, **given)
        except patience.Beyond:
            return b""
        if web and len(content) == self._info(name)["size"]:
            content = content[start:end]  # it sent all
        return checked(content, bytes_max)

    def fetch(self, name: str, temporary: Path, progress: Callable[[int], object] | None) -> None:
        if url.scheme(self.place) not in _WHOLE:
            self._fetch_blocks(name, temporary, progress)
            return
        size = self._info(name)["size"]
        if progress and url.scheme(self.place) in WEB:
            self._call(name, "get_file", str(temporary), num_bytes=size, callback=_reporting(progress))
            return
        self._call(name, "get_file", str(temporary), num_bytes=size)
        if progress:
            progress(temporary.stat().st_size)

    def _read_stream(self, name: str, bytes_max: int | None) -> bytes:
        """A whole file of a web server, as it comes: what it says of the size need not be true."""
        place = url.join(self.place, name)
        system = filesystem(place, self.patience)
        path = system._strip_protocol(place)

        def ask() -> bytes:
            stream, came = io.BytesIO(), 0

            def count(num_bytes: int) -> None:
                nonlocal came
                came += num_bytes
                if bytes_max is not None and came > bytes_max:
                    raise ValueError(f"more than {bytes_max} bytes, of which no more are read")

            _timed(system, "get_file", self.patience.seconds(bytes_max), path, stream, callback=_reporting(count))
            return stream.getvalue()

        return patience.call(place, self.patience, ask)

    def store(self, path: Path, name: str) -> None:
        self._writable()
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        size = path.stat().st_size
        if size <= PART_BYTES:
            self.write(name, path.read_bytes())
        elif url.scheme(self.place) == "s3":
            self._store_parts(lambda: path.open("rb"), size, name)
        else:
            self._call(name, "put_file", num_bytes=size, before=(str(path),))

    def write(self, name: str, content: bytes | memoryview, progress: Callable[[int], object] | None = None) -> None:
        self._writable()
        size = memoryview(content).nbytes
        if size > PART_BYTES and url.scheme(self.place) == "s3":
            self._store_parts(lambda: Pieces(memoryview(content)), size, name, progress)
            return
        self._call(name, "pipe_file", bytes(content), num_bytes=size)
        if progress:
            progress(size)

    def delete(self, name: str) -> None:
        self._writable()
        try:
            self._call(name, "rm_file", num_bytes=0)
        except FileNotFoundError:
            return

    def make(self) -> None:
        """Folders of stores are but the names of files, and buckets and repositories are not made."""
        self._writable()

    def _writable(self) -> None:
        if url.scheme(self.place) in WEB:
            raise ValueError(
                f"{url.shown(self.place)}: a web server is only read; write to a local folder, s3://, gs:// or hf://"
            )

    def _shown(self, name: str) -> str:
        return url.shown(url.join(self.place, name))

    def _call(
        self,
        name: str,
        method: str,
        *values: Any,
        num_bytes: int | None = None,
        before: tuple[Any, ...] = (),
        **named: Any,
    ) -> Any:
        """A method of fsspec on a file, its path behind `before`, as `_timed` and `patience.call`."""
        place = url.join(self.place, name)
        system = filesystem(place, self.patience)
        given = (*before, system._strip_protocol(place), *values)
        seconds = self.patience.seconds(num_bytes)
        return patience.call(place, self.patience, lambda: _timed(system, method, seconds, *given, **named))

    def _s3(self, name: str, method: str, num_bytes: int, **named: Any) -> dict[str, Any]:
        """A request of S3 on a file, or on the bucket where `name` is empty."""
        place = url.join(self.place, name) if name else self.place
        system = filesystem(place, self.patience)
        bucket, _, key = system._strip_protocol(place).partition("/")
        given = {"Bucket": bucket} | ({"Key": key} if name else {}) | named
        seconds = self.patience.seconds(num_bytes)
        return patience.call(place, self.patience, lambda: _timed(system, "call_s3", seconds, method, **given))

    def _info(self, name: str) -> dict[str, Any]:
        found = self._call(name, "info", num_bytes=0)
        if found["type"] != "file":
            raise FileNotFoundError(f"no such file: {self._shown(name)}")
        return found

    def _fetch_blocks(self, name: str, temporary: Path, progress: Callable[[int], object] | None) -> None:
        before = self._info(name)
        size = int(before["size"])
        place = url.join(self.place, name)
        system = filesystem(place, self.patience)
        path = system._strip_protocol(place)
        with open(temporary, "wb") as stream:
            for start in range(0, size, BLOCK_BYTES * BLOCKS):
                starts = range(start, min(size, start + BLOCK_BYTES * BLOCKS), BLOCK_BYTES)
                blocks = _Blocks(system, path, {at: min(size, at + BLOCK_BYTES) for at in starts}, self.patience)
                patience.call(place, self.patience, blocks.ask)
                for at in starts:
                    stream.write(blocks.came[at])
                    if progress:
                        progress(len(blocks.came[at]))
        after = self._info(name)
        if (_stamp(after), after["size"]) != (_stamp(before), before["size"]):
            raise OSError(f"{self._shown(name)}: changed while it was fetched")

    def _store_parts(
        self,
        opened: Callable[[], BinaryIO | Pieces],
        size: int,
        name: str,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        try:
            self._upload(opened, size, name, progress)
        except FileNotFoundError:
            # The answer to the last request was lost: asked again, the store knows the upload no more.
            self._upload(opened, size, name, progress)

    def _upload(
        self,
        opened: Callable[[], BinaryIO | Pieces],
        size: int,
        name: str,
        progress: Callable[[int], object] | None,
    ) -> None:
        """A multipart upload: nothing is seen of it before its last request, and nothing stays of one that fails."""
        upload = {"UploadId": self._s3(name, "create_multipart_upload", 0)["UploadId"]}
        length = max(PART_BYTES, -(-size // _PARTS_MAX))
        parts = []
        try:
            with opened() as stream:
                while content := stream.read(length):
                    given = {"PartNumber": len(parts) + 1, "Body": content, **upload}
                    tag = self._s3(name, "upload_part", len(content), **given)["ETag"]
                    parts.append({"PartNumber": len(parts) + 1, "ETag": tag})
                    if progress:
                        progress(len(content))
            self._s3(name, "complete_multipart_upload", size, MultipartUpload={"Parts": parts}, **upload)
        except BaseException:
            with contextlib.suppress(OSError):  # which would hide what went wrong
                self._s3(name, "abort_multipart_upload", 0, **upload)
            raise

    def _listed(self, start: str) -> Iterator[Entry]:
        place = url.join(self.place, start) if start else self.place
        system = filesystem(place, self.patience)
        base = system._strip_protocol(self.place).rstrip("/") + "/"
        below = system._strip_protocol(place).rstrip("/") + "/"
        if url.scheme(place) == "s3":
            found = self._pages(below)
        else:
            seconds = self.patience.seconds(None)
            path = below.rstrip("/")
            found = patience.call(
                place, self.patience, lambda: _timed(system, "find", seconds, path, detail=True)
            ).items()
        for path, info in found:
            name = path.removeprefix(base)
            if path.startswith(below) and not name.endswith("/") and info.get("type", "file") == "file":
                yield Entry(name, int(info["size"]), _stamp(info))

    def _pages(self, below: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Page by page: s3fs.find would hold a table of all files and folders, some kilobytes a file."""
        bucket, _, prefix = below.partition("/")
        given = {"Prefix": prefix}
        while True:
            page = self._s3("", "list_objects_v2", _PAGE_BYTES, **given)
            for found in page.get("Contents", []):
                yield f"{bucket}/{found['Key']}", {"size": found["Size"], "ETag": found.get("ETag")}
            if not page.get("IsTruncated"):
                return
            given["ContinuationToken"] = page["NextContinuationToken"]


def _timed(system: Any, method: str, seconds: float, *values: Any, **named: Any) -> Any:
    """A method of fsspec, given up after `seconds`: aiohttp knows no end of waiting while it sends."""
    import fsspec.asyn

    if isinstance(system, fsspec.asyn.AsyncFileSystem):
        return fsspec.asyn.sync(system.loop, getattr(system, "_" + method), *values, timeout=seconds, **named)
    # What is not made to be given up (hf) goes on by itself where it is, until its own library gives it up.
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put((getattr(system, method)(*values, **named), None))
        except BaseException as error:
            answer.put((None, error))

    threading.Thread(target=ask, daemon=True).start()
    try:
        found, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None
    if error is not None:
        raise error
    return found


@dataclass
class _Blocks:
    """Parts of a file that are asked for at the same time, and again those that did not come.

    Attributes:
        wanted: start -> end, in bytes.
        came: start -> content.
    """

    system: Any
    path: str
    wanted: dict[int, int]
    patience: Patience
    came: dict[int, bytes] = field(default_factory=dict)

    def ask(self) -> None:
        """Raises the error of one of those that did not come."""
        starts = [start for start in self.wanted if start not in self.came]
        ends = [self.wanted[start] for start in starts]
        seconds = self.patience.seconds(sum(ends) - sum(starts))
        blocks = _timed(self.system, "cat_ranges", seconds, [self.path] * len(starts), starts, ends)
        failed: Exception | None = None
        for start, end, block in zip(starts, ends, blocks):
            if isinstance(block, Exception):
                failed = block
            elif len(block) != end - start:
                failed = OSError(f"{len(block)} bytes where {end - start} were asked for")
            else:
                self.came[start] = block
        if failed is not None:
            raise failed


def _stamp(info: dict[str, Any]) -> str:
    """What a store has to tell one content from another."""
    return next((str(info[key]).strip('"') for key in _STAMPS if info.get(key)), "")


def _reporting(progress: Callable[[int], object]) -> Any:
    """What fsspec calls at each piece that has come; what `progress` raises ends the transfer."""
    from fsspec.callbacks import Callback

    class Reporting(Callback):
        def relative_update(self, inc: int = 1) -> None:
            progress(inc)

    return Reporting()
