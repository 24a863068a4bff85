"""Raw layouts, one file each: every reader turns what it finds into mentions of images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

# fmt: off
IMAGE_SUFFIXES = frozenset([
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png",
    ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
])
# fmt: on
AUDIO_SUFFIXES = frozenset([".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav"])


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
class Mention:
    """A caption or a voice, and the image that it says it belongs to.

    Attributes:
        image: path or name of an image, as the source writes it.
        value: the caption's text, or the path of the audio file as the source writes it; whatever stood there, so
            that what is not text can be rejected and counted.
        identity: who is shown, where the source says so.
        where: the place in the source, for messages.
    """

    image: str
    value: object
    identity: str | None
    where: str


@dataclass(frozen=True)
class Source:
    """Mentions, and the folder to which the paths in them are relative."""

    folder: Path
    mentions: list[Mention]


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
