"""A folder of images, with captions and voices in a table, in a Face2Text file, or in files that are named as they."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.sources import (
    AUDIO_SUFFIXES,
    TEXT_BYTES_MAX,
    Mention,
    Raw,
    Source,
    bare,
    face2text,
    files,
    read_file,
    table,
)
from t2f_dist.shard.sources.faces import Faces
from t2f_dist.storage import url
from t2f_dist.storage.folder import Entry, Folder

TEXT_SUFFIXES = frozenset([".txt"])
_TABLES = (".csv", ".tsv", ".jsonl")
_AT_ONCE = 32  # small files of a store that are asked for at the same time
_TOGETHER = 1024  # of them, so that no more are held in memory


def read(recipe: ShardRecipe) -> Raw:
    """The layout `folder`.

    Raises:
        FileNotFoundError: a path of the recipe does not exist.
        ValueError: a source is not of its layout.
    """
    faces = Faces(recipe.faces)
    captions = _captions(existing(recipe.captions, "captions"), recipe) if recipe.captions is not None else None
    return Raw(faces.pictures(), faces.find, captions, voices(recipe))


def voices(recipe: ShardRecipe) -> Source | None:
    """The voices of a table or folder, for layouts of images in a folder; None where none are given. As `read`."""
    return _voices(existing(recipe.speech, "speech"), recipe) if recipe.speech is not None else None


def _captions(place: str, recipe: ShardRecipe) -> Source:
    columns = recipe.text
    if is_folder(place):
        return read_captions(place)
    if suffix(place) == ".json":
        return face2text.read(place)
    if suffix(place) in _TABLES:
        return table.read(
            place, columns.image_column, columns.caption_column, table.CAPTION_COLUMNS, columns.identity_column
        )
    raise ValueError(
        f"captions {url.shown(place)}: expected .json (Face2Text), .csv, .tsv, .jsonl, or a folder of .txt"
    )


def _voices(place: str, recipe: ShardRecipe) -> Source:
    columns = recipe.audio
    if is_folder(place):
        return read_voices(place)
    if suffix(place) in _TABLES:
        return table.read(
            place, columns.image_column, columns.audio_column, table.AUDIO_COLUMNS, columns.identity_column
        )
    raise ValueError(
        f"speech {url.shown(place)}: expected .csv, .tsv, .jsonl, or a folder of audio files named as the images"
    )


def existing(place: str | None, what: str) -> str:
    """Raises FileNotFoundError where there is nothing; of a URL with no such file, a folder is left to be listed."""
    path = None if place is None else url.local(place)
    if place is None or (path is not None and not path.exists()):
        raise FileNotFoundError(f"no such {what}: {place}")
    if path is None and url.scheme(place) in ("http", "https") and is_folder(place):
        raise FileNotFoundError(f"no such {what}: {url.shown(place)}")
    return url.check(place) if path is None else str(path)


def is_folder(place: str) -> bool:
    """Whether a place that is there is not a file."""
    path = url.local(place)
    if path is not None:
        return path.is_dir()
    if "/" not in place.rstrip("/").partition("://")[2]:
        return True  # a bucket
    folder, name = url.split(place)
    return Folder(folder).entry(name) is None


def suffix(place: str) -> str:
    """Of a file: `.csv`."""
    return PurePosixPath(url.split(place)[1]).suffix


def read_captions(folder: str | Path) -> Source:
    """One mention a line that is not blank; one, of an empty caption, for a file that has no such line.

    Raises:
        ValueError: no .txt below the folder, or one that is not UTF-8.
        OSError: one cannot be read.
    """
    mentions = []
    entries = files(folder, TEXT_SUFFIXES)
    if not entries:
        raise ValueError(f"no .txt below {url.shown(folder)}: captions are a file or a folder with a .txt an image")
    for entry, content in _contents(folder, entries):
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where = url.shown(url.join(folder, entry.name))
            raise ValueError(f"{where}: not a text file in UTF-8 ({error.reason})") from None
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in [line for line in lines if line.strip()] or [""]:
            mentions.append(Mention(bare(entry.name, TEXT_SUFFIXES), line, None, entry.name))
    return Source(str(folder), mentions)


def _contents(folder: str | Path, entries: list[Entry]) -> Iterator[tuple[Entry, bytes]]:
    """The small files of a folder, in the order of the entries."""
    there = Folder(folder)

    def content(entry: Entry) -> bytes:
        try:
            if there.is_local:
                return read_file(there.path / entry.name, TEXT_BYTES_MAX)
            if entry.size > TEXT_BYTES_MAX:
                raise ValueError(f"{entry.size} bytes; at most {TEXT_BYTES_MAX} are read")
            return there.read(entry.name)
        except ValueError as error:
            raise ValueError(f"{url.shown(there.at(entry.name))}: {error}") from None

    if there.is_local:
        for entry in entries:
            yield entry, content(entry)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(entries), _TOGETHER):
            some = entries[start : start + _TOGETHER]
            yield from zip(some, pool.map(content, some))


def read_voices(folder: str | Path) -> Source:
    """One mention a file.

    Raises:
        ValueError: no audio file below the folder.
        OSError: the folder cannot be read.
    """
    place = str(folder)
    entries = files(place, AUDIO_SUFFIXES)
    if not entries:
        raise ValueError(f"no audio file below {url.shown(place)} (looked for {' '.join(sorted(AUDIO_SUFFIXES))})")
    mentions = [Mention(bare(entry.name, AUDIO_SUFFIXES), entry.name, None, entry.name) for entry in entries]
    return Source(place, mentions, {place: {entry.name: entry for entry in entries}})
