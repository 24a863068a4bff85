"""Tars in the layout of img2dataset: {key}.jpg, {key}.txt and {key}.json of each picture (`t2f_dist.shard.triplet`).

The bytes of an image stay in the tar, and are read from their place in it; nothing is unpacked. A tar that stands
elsewhere is fetched once, to read its headers and captions, and not kept.

A key in two tars is two samples. Unless a field of the JSON says whose picture it is, each is an identity of its own,
named after the tar's folder, the tar and the key: it keeps its side of the split when other tars are added, when all
are copied elsewhere, and whether they are sharded or indexed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard import parquet, triplet
from t2f_dist.shard.sources import ORPHANED, Mention, Picture, Raw, Refusal, Source, walk
from t2f_dist.shard.tar import DamagedTar
from t2f_dist.shard.triplet import Fields, Piece, Repeated, Row, Said, Triplet
from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder
from t2f_dist.storage.patience import Denied, Unreachable
from t2f_dist.storage.stage import room

STATS_BYTES_MAX = 1 << 20
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Slice:
    """Bytes at a place in a file, of this machine or of a URL.

    `read` raises OSError, or ValueError where the file has become shorter.

    Attributes:
        stamp: of a remote file, what changes with its content.
    """

    path: str
    offset: int
    length: int
    stamp: str = ""

    @property
    def is_remote(self) -> bool:
        return url.is_url(self.path)

    def read(self) -> bytes:
        try:
            if url.is_url(self.path):
                folder, name = url.split(self.path)
                content = Folder(folder).read(name, self.offset, self.length)
            else:
                with open(self.path, "rb") as stream:
                    stream.seek(self.offset)
                    content = stream.read(self.length)
        except FileNotFoundError:
            raise Unreachable(f"{url.shown(self.path)}: a file when the corpus was listed, and now none") from None
        if len(content) != self.length:
            raise ValueError(f"{len(content)} bytes in the tar where its header says {self.length}")
        return content


@dataclass(frozen=True)
class Tar:
    """A tar and its place: the folder or URL that was searched, and the tar's name in it, with /."""

    folder: str
    name: str
    stamp: str = ""

    @property
    def place(self) -> str:
        """Its path or URL."""
        return url.join(self.folder, self.name)

    @property
    def shown(self) -> str:
        """Its place for a message: without what is secret, or no text."""
        return url.shown(self.place).encode("utf-8", "replace").decode()

    @property
    def stem(self) -> str:
        return self.name.removesuffix(".tar")

    def identity(self, key: str) -> str:
        """That of a sample, where nothing else says whose it is."""
        local = url.local(self.place)
        parent, name = url.split(self.place) if local is None else os.path.split(os.path.abspath(local))
        parent = parent.partition("?")[0].rstrip("/")
        return f"{parent.rpartition('/')[2]}/{name.removesuffix('.tar')}/{key}"

    @contextmanager
    def here(self) -> Iterator[Path]:
        """A local path of the whole tar; one that is fetched is removed afterwards. Raises OSError."""
        with self._brought(self.name) as path:
            assert path is not None
            yield path

    @contextmanager
    def beside(self, suffix: str) -> Iterator[Path | None]:
        """A local path of the file of the same name with another suffix; None where there is none."""
        with self._brought(self.stem + suffix, optional=True) as path:
            yield path

    @contextmanager
    def _brought(self, name: str, optional: bool = False) -> Iterator[Path | None]:
        folder = Folder(self.folder)
        if folder.is_local:
            path = folder.path / name
            yield None if optional and not path.is_file() else path
            return
        if optional and _absent(folder, name):
            yield None
            return
        with room() as stage:
            path = stage / name.rpartition("/")[2]
            folder.fetch(name, path)
            yield path


def _absent(folder: Folder, name: str) -> bool:
    try:
        return folder.size(name) is None
    except Denied:  # as a server may, of what it would not list
        return True
    except Unreachable:
        raise
    except OSError:  # it is there, and the server does not say how long it is
        return False


def tars(pattern: str) -> list[Tar]:
    """Those that a pattern names, each once: a file, a folder, a glob, any of them with braces, or a URL.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a URL of a scheme that is not allowed, or a pattern of a web server's files with a *.
        OSError: a place cannot be listed.
    """
    found: dict[str, Tar] = {}
    for place in [pattern] if os.path.exists(pattern) else url.expand(pattern):
        named = _named(url.check(place))
        if not named:
            raise FileNotFoundError(
                f"no .tar at {url.shown(place)}; expected a folder, a file, or a pattern such as 'data/*.tar'"
            )
        found |= {tar.place: tar for tar in named}
    return _rooted(list(found.values()))


def _rooted(found: list[Tar]) -> list[Tar]:
    """With names below one folder, so that no two are the same."""
    roots = sorted({tar.folder for tar in found})
    if len(roots) == 1:
        return found
    parts = [root.split("/") for root in roots]
    shared = 0
    while all(len(part) > shared and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    root = "/".join(parts[0][:shared])
    if url.is_url(roots[0]) and shared < 3:  # s3: "" bucket
        return found
    cut = len(root) + 1 if root else 0
    return [Tar(root or ".", f"{tar.folder}/{tar.name}"[cut:], tar.stamp) for tar in found]


def _named(place: str) -> list[Tar]:
    local = url.local(place)
    if local is not None:
        return _local(str(local))
    folder, name = url.split(place)
    web = url.scheme(place) in ("http", "https")
    magic = re.search(r"[*\[]" if web else _MAGIC, place)
    if magic is None and (name.endswith(".tar") or web):
        if not web and Folder(folder).size(name) is None:
            return []
        entries = [] if web else [entry for entry in Folder(folder).list(name) if entry.name == name]
        return [Tar(folder, name, entries[0].stamp if entries else "")]
    root = place[: place.rindex("/", 0, magic.start())] if magic else place.rstrip("/")
    wanted = _pattern(place[len(root) + 1 :]) if magic else re.compile(r".*\.tar")
    return [Tar(root, entry.name, entry.stamp) for entry in Folder(root).list() if wanted.fullmatch(entry.name)]


def _local(place: str) -> list[Tar]:
    path = Path(place)
    if path.is_dir():
        return [Tar(place, name) for name in walk(path, frozenset([".tar"]))]
    if path.is_file():
        return [Tar(str(path.parent), path.name)]
    magic = _MAGIC.search(place)
    if magic is None:
        return []
    root = place[: place.rfind("/", 0, magic.start()) + 1]
    wanted = _pattern(place[len(root) :])
    root = root.rstrip("/") or ("/" if root else ".")
    if not Path(root).is_dir():
        return []
    return [
        Tar(root, name)
        for name in _below(Path(root), place.count("/", magic.start()), "**" in place)
        if wanted.fullmatch(name)
    ]


def _below(root: Path, depth: int, deep: bool) -> list[str]:
    """The files below a folder; unless `deep`, at most `depth` folders down."""
    found = []
    for folder, folders, files in os.walk(root, followlinks=False):
        below = os.path.relpath(folder, root)
        level = 0 if below == "." else below.count(os.sep) + 1
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deep or level < depth else []
        start = "" if below == "." else below.replace(os.sep, "/") + "/"
        found += [start + name for name in files if not name.startswith(".")]
    return sorted(found)


def _pattern(text: str) -> re.Pattern[str]:
    """A glob as a regular expression: * and ? within a name, [ab] and [!ab], ** for any folders."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^]/]+\])", text)
    signs = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    found = ""
    for number, part in enumerate(parts):
        if number % 2 == 0:
            found += re.escape(part)
        elif part in signs:
            found += signs[part]
        else:
            inner = part[1:-1].replace("\\", r"\\").replace("^", r"\^")
            found += f"[^/{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    try:
        return re.compile(found)
    except re.error:
        raise ValueError(f"{text!r} is not a pattern of file names") from None


@dataclass
class Contents:
    """What a tar holds.

    Attributes:
        samples: its triplets, and what each says, in the order of the tar; read one by one, once.
        notes: what may be worth a look, a line each; whole when all samples are read.
    """

    samples: Iterator[tuple[Triplet, Said]]
    repeated: list[Repeated]
    notes: list[str]


@contextmanager
def contents(tar: Tar, path: Path, fields: Fields) -> Iterator[Contents]:
    """The headers of a tar, of which the local path is `path`, and its captions and facts as they are asked for.

    Raises:
        OSError: it cannot be read.
        DamagedTar: it is not whole.
    """
    try:
        found, repeated = triplet.triplets(path)
    except DamagedTar as error:
        raise DamagedTar(error.position, error.reason, tar.shown) from None
    notes: list[str] = []
    with tar.beside("_stats.json") as stats:
        successes = _successes(stats)
    images = sum(each.image is not None for each in found.values())
    if successes is not None and successes != images:
        notes.append(f"{tar.shown} holds {images} images, where its _stats.json counts {successes}")
    with open(path, "rb") as stream, tar.beside(".parquet") as table:
        rows = _Rows(table, fields, notes)

        def read(piece: Piece) -> bytes:
            return os.pread(stream.fileno(), piece.size, piece.offset)

        yield Contents(((each, triplet.said(each, read, fields, rows)) for each in found.values()), repeated, notes)


class _Rows:
    """The table beside a tar, read when it is first asked for."""

    def __init__(self, path: Path | None, fields: Fields, notes: list[str]):
        self.path, self.notes = path, notes
        self.columns = (fields.captions or "caption", "status", "error_message")
        self.rows: dict[str, dict[str, object]] | None = None

    def __call__(self, key: str) -> Row | None:
        if self.path is None:
            return None
        if self.rows is None:
            try:
                self.rows = parquet.rows(self.path, self.columns)
            except (ValueError, OSError) as error:
                self.rows = {}
                self.notes.append(f"captions may be missing: {error}")
        return self.rows.get(key)


def _successes(path: Path | None) -> int | None:
    if path is None or path.stat().st_size > STATS_BYTES_MAX:
        return None
    try:
        stats = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    count = stats.get("successes") if isinstance(stats, dict) else None
    return count if type(count) is int else None


@dataclass
class _Found:
    pictures: dict[str, Picture] = field(default_factory=dict)
    mentions: list[Mention] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def read(recipe: ShardRecipe) -> Raw:
    """The layout `webdataset`: images and captions of all tars that `recipe.faces` names.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a tar is cut off, damaged or compressed.
        OSError: it cannot be read.
    """
    listed = tars(recipe.faces)
    fields = Fields(identity=recipe.webdataset.identity_field)
    found = _Found()
    for tar in listed:
        with tar.here() as path, contents(tar, path, fields) as held:
            found.refusals += [_repeated(tar, path, each) for each in held.repeated]
            for each, said in held.samples:
                _add(tar, each, said, found)
    if len({tar.name for tar in listed}) < len(listed):
        raise ValueError(f"{url.shown(recipe.faces)}: two tars of one name on different servers; shard them apart")
    if not found.pictures and not found.refusals:
        raise ValueError(f"no image in the tars of {url.shown(recipe.faces)} (such as {listed[0].name})")
    pictures = dict(sorted(found.pictures.items()))
    captions = Source(".", found.mentions)
    return Raw(pictures, lambda name, _: name if name in pictures else None, captions, refusals=found.refusals)


def _repeated(tar: Tar, path: Path, repeated: Repeated) -> Refusal:
    reason, name = "its key stands twice in the tar", f"{tar.stem}/{repeated.name}"
    if repeated.part == "image":
        return Refusal("images", "rejected", reason, name, where=tar.name)
    text = Slice(str(path), *repeated.piece).read().decode("utf-8", "replace")
    return Refusal("captions", "rejected", reason, name, text, tar.name)


def _add(tar: Tar, found: Triplet, said: Said, into: _Found) -> None:
    name = f"{tar.stem}/{found.name}"
    if said.fault:
        into.refusals.append(Refusal("images", "rejected", said.fault, name, where=tar.name))
        into.refusals += [
            Refusal("captions", "rejected", ORPHANED, name, str(caption), tar.name) for caption in said.captions
        ]
        return
    if found.image is not None:
        piece = Slice(tar.place, *found.image, stamp=tar.stamp)
        into.pictures[name] = Picture(piece, said.identity or tar.identity(found.key))
    into.mentions += [Mention(name, caption, None, tar.name) for caption in said.captions]
