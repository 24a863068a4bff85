"""Raw layouts, one file each: every reader turns what it finds into images, and mentions of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from t2f_dist.shard.manifest import Kind, SplitName
from t2f_dist.storage import url
from t2f_dist.storage.disk import NotPlain, entry_at, opened, scan
from t2f_dist.storage.folder import Entry as FolderEntry
from t2f_dist.storage.folder import Folder
from t2f_dist.storage.patience import Unreachable

# fmt: off
IMAGE_SUFFIXES = frozenset([
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
])
# fmt: on
AUDIO_SUFFIXES = frozenset([".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"])


IMAGE_BYTES_MAX = 1 << 28
TEXT_BYTES_MAX = 1 << 20  # of the captions of one image, in a file of their own
ORPHANED = "its image is rejected"  # why a caption or voice is refused that itself is sound


class Ref(Protocol):
    """Where the bytes of one image stand: picklable, read when the sample is written."""

    @property
    def is_remote(self) -> bool:
        """Whether `read` waits for another machine, so that it is worth while to ask ahead."""
        ...

    def read(self) -> bytes:
        """Raises FileNotFoundError or ValueError, whose one line does not name the image: it is missing, or not usable.

        Raises Unreachable where it could not even be asked for, so that nothing is said of the image.
        """
        ...


@dataclass(frozen=True)
class File:
    """A whole file, here or behind a URL.

    Attributes:
        root: the folder or URL.
        name: relative to it, with /.
        size: in bytes; -1 where it is not known, or no plain file was listed.
        stamp: changes with the content.
    """

    root: str
    name: str
    size: int = -1
    stamp: str = ""

    @property
    def path(self) -> Path | None:
        """Of a local file."""
        root = url.local(self.root)
        return None if root is None else root / self.name

    @property
    def is_remote(self) -> bool:
        return url.local(self.root) is None

    def read(self) -> bytes:
        """Raises as that of `Ref`: an error of the system, and the want of a file that was listed, are Unreachable.

        What is made of it is the same wherever it is made: a disk that fails for a moment does not decide about it.
        """
        try:
            return self._content()
        except Unreachable:
            raise
        except (FileNotFoundError, NotPlain) as error:
            if self.size < 0:
                raise ValueError(str(error)) if isinstance(error, NotPlain) else error from None
            raise Unreachable(f"{self.shown}: a file when the corpus was listed, and now none") from None
        except OSError as error:
            raise Unreachable(f"{self.shown}: {error.strerror or error}") from None

    @property
    def shown(self) -> str:
        """Its place for a message."""
        path = self.path
        return url.shown(url.join(self.root, self.name)) if path is None else str(path)

    def _content(self) -> bytes:
        root = url.local(self.root)
        if root is not None:
            return _bytes(f"{root}/{self.name}", IMAGE_BYTES_MAX)
        if self.size > IMAGE_BYTES_MAX:
            raise ValueError(f"{self.size} bytes; at most {IMAGE_BYTES_MAX} are read")
        content = Folder(self.root).read(self.name, bytes_max=self.size if self.size >= 0 else IMAGE_BYTES_MAX)
        if len(content) != self.size >= 0:
            raise ValueError(f"{len(content)} bytes, and {self.size} when the corpus was listed")
        return content


def read_file(path: str | Path, bytes_max: int) -> bytes:
    """A plain file of at most so many bytes. Raises OSError, or ValueError for a pipe, a device or a larger one."""
    try:
        return _bytes(path, bytes_max)
    except NotPlain as error:
        raise ValueError(str(error)) from None


def _bytes(path: str | Path, bytes_max: int) -> bytes:
    with opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > bytes_max:
            raise ValueError(f"{size} bytes; at most {bytes_max} are read")
        return stream.read(size)  # not bytes_max, for which so much memory would be asked


class Block(Protocol):
    """An array of embeddings somewhere in a file: hashable, picklable, read when it is needed."""

    def read(self) -> np.ndarray:
        """float32 [rows, D]. Raises ValueError, one line that names the file, where it cannot be read."""
        ...


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of an image's captions, in the order of the captions, as a corpus brings them.

    Attributes:
        rows: for each caption, the array that holds its embedding and the row in it.
    """

    rows: tuple[tuple[Block, int], ...]

    def read(self) -> np.ndarray:
        """float32 [num_captions, D].

        Raises:
            ValueError: a file is missing or damaged, or holds values that are not finite; one line that names it.
        """
        blocks = {block: block.read() for block in dict.fromkeys(block for block, _ in self.rows)}
        return np.stack([blocks[block][row] for block, row in self.rows])


@dataclass(frozen=True)
class Picture:
    """One image of a corpus.

    Attributes:
        identity: who or what is shown, where the layout says so.
        split: the side on which the corpus itself puts it, where it does.
    """

    content: Ref
    identity: str | None = None
    split: SplitName | None = None


@dataclass(frozen=True)
class Mention:
    """A caption or a voice, and the image that it says it belongs to.

    Attributes:
        image: path or name of an image, as the source writes it.
        value: the caption's text, or the path of the audio file as the source writes it; whatever stood there, so
            that what is not text can be rejected and counted.
        identity: who is shown, where the source says so.
        where: the place in the source, for messages.
        embedding: of a caption, where the corpus brings it: the array that holds it and its row.
    """

    image: str
    value: object
    identity: str | None
    where: str
    embedding: tuple[Block, int] | None = None


@dataclass(frozen=True)
class Source:
    """Mentions, and the folder or URL to which the paths in them are relative.

    Attributes:
        listed: the files of folders that are known already, by the folder and the name.
    """

    folder: str
    mentions: list[Mention]
    listed: dict[str, dict[str, FolderEntry]] = field(default_factory=dict, compare=False, repr=False)

    def file(self, value: str) -> File | None:
        """The file that a path in the source names; None where there is none.

        Raises:
            OSError: its folder cannot be asked.
        """
        place = url.beside(self.folder, value) if value else None
        if place is None:
            return None
        if url.local(self.folder) is not None:
            entry = entry_at(place)  # a path: no rule for URLs says anything of it
            return File("/", place.lstrip("/"), entry.size, entry.stamp) if entry else None
        root, name = url.split(place)
        if url.scheme(place) not in ("http", "https"):
            known = self._folder_of(root, place)
            entry = self.listed[known].get(place.removeprefix(known.rstrip("/") + "/"))
        else:
            entry = Folder(root).entry(name) if name else None
        return File(root, name, entry.size, entry.stamp) if entry else None

    def _folder_of(self, root: str, place: str) -> str:
        """A folder of the place that is listed; a question a file would take a day."""
        known = next((folder for folder in self.listed if place.startswith(folder.rstrip("/") + "/")), None)
        if known is None:
            known = self.folder if place.startswith(self.folder.rstrip("/") + "/") else root
            self.listed[known] = {entry.name: entry for entry in Folder(known).list()}
        return known


@dataclass(frozen=True)
class Refusal:
    """An image, caption or voice that is not stored, and why: one line of rejected.jsonl."""

    kind: Kind
    status: str  # rejected | unmatched
    reason: str
    image: str
    value: str = ""  # the caption's text, or the path of the voice
    where: str = ""

    def row(self) -> dict[str, str]:
        value = {"captions": {"caption": self.value}, "voices": {"speech": self.value}}.get(self.kind, {})
        where = {"where": self.where} if self.where else {}
        return {"kind": self.kind, "status": self.status, "image": self.image, **value, **where, "reason": self.reason}


@dataclass(frozen=True)
class Raw:
    """What a reader finds in a corpus.

    Attributes:
        pictures: by name, in sorted order.
        find: the name of the image that a mention names, given the folder of its source; None if there is none.
            Raises Ambiguous where it fits several.
        captions: None: the recipe gives none.
        voices: None: the recipe gives none.
        refusals: what is in the corpus and in none of the above, because the layout's own rules refuse it.
    """

    pictures: dict[str, Picture]
    find: Callable[[str, str], str | None]
    captions: Source | None = None
    voices: Source | None = None
    refusals: list[Refusal] = field(default_factory=list)


class Ambiguous(ValueError):
    """A name that fits several images."""


def bare(path: str, suffixes: frozenset[str]) -> str:
    """A path without its suffix, if that is a known one: `a.b` stays whole, `a.b.jpg` becomes `a.b`."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and stem and f".{suffix.lower()}" in suffixes else path


def files(place: str | Path, suffixes: frozenset[str]) -> list[FolderEntry]:
    """The files below a folder or URL with one of the suffixes, sorted by name; nothing hidden.

    Raises:
        OSError: the folder cannot be read, or the store not be asked.
        ValueError: a web server, whose files cannot be listed.
    """
    path = url.local(place)
    if path is not None:
        found = [entry for entry in scan(path, hidden=False) if _suffix(entry.name) in suffixes]
        return sorted(found)
    return [
        entry
        for entry in Folder(place).list()
        if _suffix(entry.name) in suffixes and not any(part.startswith(".") for part in entry.name.split("/"))
    ]


def walk(root: Path, suffixes: frozenset[str]) -> list[str]:
    """The names of `files` of a local folder."""
    return [entry.name for entry in files(root, suffixes)]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
