"""Raw layouts, one file each: every reader turns what it finds into images, and mentions of them."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from t2f_dist.shard.manifest import Kind, SplitName

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

    def read(self) -> bytes:
        """Raises FileNotFoundError, OSError or ValueError, whose one line does not name the image."""
        ...


@dataclass(frozen=True)
class File:
    """A whole file. `read` raises as `read_file`."""

    root: str
    name: str

    def read(self) -> bytes:
        return read_file(Path(self.root, self.name), IMAGE_BYTES_MAX)


def read_file(path: Path, bytes_max: int) -> bytes:
    """A plain file, of no more than so many bytes. Raises OSError, or ValueError for a pipe, a device or a larger one."""
    # A pipe without a writer would be waited for, and a link to a device has no end.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a plain file")
        if status.st_size > bytes_max:
            raise ValueError(f"{status.st_size} bytes; at most {bytes_max} are read")
        return stream.read(bytes_max)


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
    """Mentions, and the folder to which the paths in them are relative."""

    folder: Path
    mentions: list[Mention]


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
    find: Callable[[str, Path], str | None]
    captions: Source | None = None
    voices: Source | None = None
    refusals: list[Refusal] = field(default_factory=list)


class Ambiguous(ValueError):
    """A name that fits several images."""


def bare(path: str, suffixes: frozenset[str]) -> str:
    """A path without its suffix, if that is a known one: `a.b` stays whole, `a.b.jpg` becomes `a.b`."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and stem and f".{suffix.lower()}" in suffixes else path


def walk(root: Path, suffixes: frozenset[str]) -> list[str]:
    """The files below `root` with one of the suffixes, as sorted relative paths with /; nothing hidden."""
    found = []
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = "" if folder == str(root) else os.path.relpath(folder, root).replace(os.sep, "/") + "/"
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                found.append(below + name)
    return sorted(found)
