"""Files that are not on this machine, through fsspec: with timeouts, tried again within bounds, in bounded memory.

Every library below fsspec repeats calls by itself, each with its own patience; that is switched off where it can be,
so that the tries and waits are those of Patience and an error comes after a time that can be told beforehand.

Credentials are found by the libraries in the environment (AWS_ACCESS_KEY_ID ..., GOOGLE_APPLICATION_CREDENTIALS,
HF_TOKEN), and the address of a server that speaks S3 in AWS_ENDPOINT_URL. Neither is ever written into a message.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2f_dist.storage import patience, url
from t2f_dist.storage.disk import Entry
from t2f_dist.storage.patience import Patience

BLOCK_BYTES = 8 << 20  # of one request of a file that is fetched or stored
BLOCKS = 4  # requests at the same time, so that a transfer holds no more than 32 MiB

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
        start = prefix.rpartition("/")[0]
        place = url.join(self.place, start) if start else self.place
        return sorted(entry for entry in self._listed(place) if entry.name.startswith(prefix))

    def size(self, name: str) -> int | None:
        try:
            size = self._info(name)["size"]
        except FileNotFoundError:
            return None
        if size is None:
            raise OSError(f"{url.shown(url.join(self.place, name))}: the server does not say how many bytes it has")
        return int(size)

    def read(self, name: str, start: int, length: int | None) -> bytes:
        if length == 0:
            return b""
        return self._call(name, lambda system, path: _range(system, path, start, length))

    def fetch(self, name: str, temporary: Path, progress: Callable[[int], object] | None) -> None:
        if url.scheme(self.place) not in _WHOLE:
            self._fetch_blocks(name, temporary, progress)
            return
        self._call(name, lambda system, path: system.get_file(path, str(temporary)))
        if progress:
            progress(temporary.stat().st_size)

    def store(self, path: Path, name: str) -> None:
        self._writable()
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        blocks = {"chunksize": BLOCK_BYTES, "max_concurrency": BLOCKS} if url.scheme(self.place) == "s3" else {}
        self._call(name, lambda system, there: system.put_file(str(path), there, **blocks))

    def write(self, name: str, content: bytes) -> None:
        self._writable()
        self._call(name, lambda system, there: system.pipe_file(there, content))

    def delete(self, name: str) -> None:
        self._writable()
        try:
            self._call(name, lambda system, there: system.rm_file(there))
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

    def _call(self, name: str, action: Callable[[Any, str], Any]) -> Any:
        place = url.join(self.place, name)
        system = filesystem(place, self.patience)
        return patience.call(place, self.patience, lambda: action(system, system._strip_protocol(place)))

    def _info(self, name: str) -> dict[str, Any]:
        found = self._call(name, lambda system, path: system.info(path))
        if found["type"] != "file":
            raise FileNotFoundError(f"no such file: {url.shown(url.join(self.place, name))}")
        return found

    def _fetch_blocks(self, name: str, temporary: Path, progress: Callable[[int], object] | None) -> None:
        before = self._info(name)
        size = int(before["size"])
        with open(temporary, "wb") as stream:
            for start in range(0, size, BLOCK_BYTES * BLOCKS):
                starts = range(start, min(size, start + BLOCK_BYTES * BLOCKS), BLOCK_BYTES)
                ranges = [(at, min(size, at + BLOCK_BYTES)) for at in starts]
                came: dict[int, bytes] = {}
                self._call(name, lambda system, path: _ranges(system, path, ranges, came))  # noqa: B023
                for at, _ in ranges:
                    stream.write(came[at])
                    if progress:
                        progress(len(came[at]))
        after = self._info(name)
        if (_stamp(after), after["size"]) != (_stamp(before), before["size"]):
            raise OSError(f"{url.shown(url.join(self.place, name))}: changed while it was fetched")

    def _listed(self, place: str) -> Iterator[Entry]:
        system = filesystem(place, self.patience)
        base = system._strip_protocol(self.place).rstrip("/") + "/"
        below = system._strip_protocol(place).rstrip("/") + "/"
        if url.scheme(place) == "s3":
            found = self._pages(place, system, below)
        else:
            found = patience.call(place, self.patience, lambda: system.find(below.rstrip("/"), detail=True)).items()
        for path, info in found:
            name = path.removeprefix(base)
            if path.startswith(below) and not name.endswith("/") and info.get("type", "file") == "file":
                yield Entry(name, int(info["size"]), _stamp(info))

    def _pages(self, place: str, system: Any, below: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Page by page: s3fs.find would hold a table of all files and folders, some kilobytes a file."""
        bucket, _, prefix = below.partition("/")
        given = {"Bucket": bucket, "Prefix": prefix}
        while True:
            page = patience.call(place, self.patience, lambda: system.call_s3("list_objects_v2", **given))
            for found in page.get("Contents", []):
                yield f"{bucket}/{found['Key']}", {"size": found["Size"], "ETag": found.get("ETag")}
            if not page.get("IsTruncated"):
                return
            given["ContinuationToken"] = page["NextContinuationToken"]


def _range(system: Any, path: str, start: int, length: int | None) -> bytes:
    end = None if length is None else start + length
    web = path.startswith(("http://", "https://"))
    try:
        if web and start == 0 and length is None:
            return system.cat_file(path)  # without a range, which it may not know
        content = system.cat_file(path, start=start, end=end)
    except Exception as error:
        if patience.status(error) == 416:  # the file ends before the range begins
            return b""
        raise
    if web and (start or length is not None) and len(content) == system.info(path)["size"]:
        return content[start:end]  # from a server that knows no ranges and sends all
    return content


def _ranges(system: Any, path: str, ranges: list[tuple[int, int]], came: dict[int, bytes]) -> None:
    """Put into `came` those (start, end) of a file that are not in it, by their start; raise the error of one."""
    wanted = [(start, end) for start, end in ranges if start not in came]
    blocks = system.cat_ranges([path] * len(wanted), [start for start, _ in wanted], [end for _, end in wanted])
    failed: Exception | None = None
    for (start, end), block in zip(wanted, blocks):
        if isinstance(block, Exception):
            failed = block
        elif len(block) != end - start:
            failed = OSError(f"{len(block)} bytes where {end - start} were asked for")
        else:
            came[start] = block
    if failed is not None:
        raise failed


def _stamp(info: dict[str, Any]) -> str:
    """What a store has to tell one content from another."""
    return next((str(info[key]).strip('"') for key in _STAMPS if info.get(key)), "")
