"""A folder of images, with captions and voices in a table, in a Face2Text file, or in files that are named as they."""

from pathlib import Path

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.sources import (
    AUDIO_SUFFIXES,
    TEXT_BYTES_MAX,
    Mention,
    Raw,
    Source,
    bare,
    face2text,
    read_file,
    table,
    walk,
)
from t2f_dist.shard.sources.faces import Faces

TEXT_SUFFIXES = frozenset([".txt"])
_TABLES = (".csv", ".tsv", ".jsonl")


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


def _captions(path: Path, recipe: ShardRecipe) -> Source:
    columns = recipe.text
    if path.is_dir():
        return read_captions(path)
    if path.suffix == ".json":
        return face2text.read(path)
    if path.suffix in _TABLES:
        return table.read(
            path, columns.image_column, columns.caption_column, table.CAPTION_COLUMNS, columns.identity_column
        )
    raise ValueError(f"captions {path}: expected .json (Face2Text), .csv, .tsv, .jsonl, or a folder of .txt")


def _voices(path: Path, recipe: ShardRecipe) -> Source:
    columns = recipe.audio
    if path.is_dir():
        return read_voices(path)
    if path.suffix in _TABLES:
        return table.read(
            path, columns.image_column, columns.audio_column, table.AUDIO_COLUMNS, columns.identity_column
        )
    raise ValueError(f"speech {path}: expected .csv, .tsv, .jsonl, or a folder of audio files named as the images")


def existing(path: str | None, what: str) -> Path:
    """Raises FileNotFoundError where there is nothing."""
    if path is None or not Path(path).exists():
        raise FileNotFoundError(f"no such {what}: {path}")
    return Path(path)


def read_captions(folder: Path) -> Source:
    """One mention a line that is not blank; one, of an empty caption, for a file that has no such line.

    Raises:
        ValueError: no .txt below the folder, or one that is not UTF-8.
    """
    mentions = []
    paths = walk(folder, TEXT_SUFFIXES)
    if not paths:
        raise ValueError(f"no .txt below {folder}: captions are a file or a folder with a .txt an image")
    for path in paths:
        try:
            text = read_file(folder / path, TEXT_BYTES_MAX).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{folder / path}: not a text file in UTF-8 ({error.reason})") from None
        except ValueError as error:
            raise ValueError(f"{folder / path}: {error}") from None
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in [line for line in lines if line.strip()] or [""]:
            mentions.append(Mention(bare(path, TEXT_SUFFIXES), line, None, path))
    return Source(folder, mentions)


def read_voices(folder: Path) -> Source:
    """One mention a file.

    Raises:
        ValueError: no audio file below the folder.
    """
    paths = walk(folder, AUDIO_SUFFIXES)
    if not paths:
        raise ValueError(f"no audio file below {folder} (looked for {' '.join(sorted(AUDIO_SUFFIXES))})")
    return Source(folder, [Mention(bare(path, AUDIO_SUFFIXES), path, None, path) for path in paths])
