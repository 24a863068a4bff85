"""A folder of files, on this machine or elsewhere, by one set of methods: list, read, fetch, store."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from t2f_dist.storage import url
from t2f_dist.storage.disk import Disk, Entry, replacing, write_file
from t2f_dist.storage.patience import Patience
from t2f_dist.storage.remote import Remote

__all__ = ["Entry", "Folder", "Patience", "replacing", "write_file"]


@dataclass(frozen=True, init=False)
class Folder:
    """A local folder, or a URL below which files stand; picklable, and of use in any process and after a fork.

    All methods raise FileNotFoundError where there is no such file, folder or bucket, PermissionError where access is
    denied, and OSError of the rest, each in one line; of what may pass (timeouts, 5xx, resets) first after
    `patience.tries` tries. ValueError: a name that leads out of the folder, or a library is missing for the scheme.

    Attributes:
        place: as it was given, checked.
        patience: of calls to another machine.
    """

    place: str
    patience: Patience
    _files: Disk | Remote

    def __init__(self, place: str | Path, patience: Patience | None = None):
        """Raises ValueError for a place that `url.check` refuses."""
        path = url.local(place)
        checked = url.check(place)
        patience = patience or Patience()
        object.__setattr__(self, "place", checked)
        object.__setattr__(self, "patience", patience)
        object.__setattr__(self, "_files", Remote(checked, patience) if path is None else Disk(path))

    @property
    def is_local(self) -> bool:
        return isinstance(self._files, Disk)

    @property
    def path(self) -> Path:
        """The path of a local folder. Raises ValueError for another."""
        if not isinstance(self._files, Disk):
            raise ValueError(f"{self}: expected a local folder")
        return self._files.path

    def __str__(self) -> str:
        return url.shown(self.place)

    def at(self, name: str) -> str:
        """The place of a file of the folder: a path or a URL."""
        return url.join(self.place, name)

    def list(self, prefix: str = "") -> list[Entry]:
        """All files below the folder whose names begin with `prefix`, sorted by name; local links are followed.

        A folder that is not there has no files in a bucket or repository: stores of objects know no folders. What a
        killed process left of an unfinished file is not listed.

        Raises:
            FileNotFoundError: no such local folder, bucket or repository.
            ValueError: a web server, of which files cannot be listed.
        """
        return self._files.list(prefix)

    def size(self, name: str) -> int | None:
        """The bytes of a file; None where there is none. OSError where a web server does not say."""
        entry = self.entry(name)
        if entry is not None and entry.size < 0:
            raise OSError(f"{url.shown(self.at(name))}: the server does not say how many bytes it has")
        return None if entry is None else entry.size

    def entry(self, name: str) -> Entry | None:
        """What is known of one file, also on a web server; size -1 where that does not say. None: no such file."""
        return self._files.entry(name)

    def read(self, name: str, start: int = 0, length: int | None = None, bytes_max: int | None = None) -> bytes:
        """The bytes of a file from `start` on, at most `length`; fewer where it ends before.

        Args:
            bytes_max: of what is read; ValueError where there are more. It also says how long an answer is waited for.
        """
        if start < 0 or (length is not None and length < 0):
            raise ValueError(f"{name}: start {start} and length {length}: neither may be negative")
        return self._files.read(name, start, length, bytes_max)

    def fetch(self, name: str, path: Path, progress: Callable[[int], object] | None = None) -> None:
        """Bring a file here, whole or not at all; of a store, 32 MiB of it at a time.

        Args:
            path: of the local file to be; its folder is there.
            progress: is called with the number of bytes that have come since it was called last.
        """
        with replacing(path) as temporary:
            self._files.fetch(name, temporary, progress)

    def store(self, path: Path, name: str) -> None:
        """Put a local file into the folder, whole or not at all, in place of one of the same name."""
        self._files.store(path, name)

    def write(self, name: str, content: bytes | memoryview, progress: Callable[[int], object] | None = None) -> None:
        """As `store`, of a file that is in memory.

        Args:
            progress: is called with the number of bytes that arrived since it was called last: in S3 after each part of
                16 MiB, elsewhere at the end.
        """
        self._files.write(name, content, progress)

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        self._files.delete(name)

    def make(self) -> None:
        """Make a local folder, if it is not there; buckets and repositories are not made."""
        self._files.make()
