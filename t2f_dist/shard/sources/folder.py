"""A folder whose files have the names of the images: `.txt` with a caption a line, or audio files."""

from pathlib import Path

from t2f_dist.shard.sources import AUDIO_SUFFIXES, Mention, Source, bare, walk

TEXT_SUFFIXES = frozenset([".txt"])


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
            lines = (folder / path).read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{folder / path}: not a text file in UTF-8 ({error.reason})") from None
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
