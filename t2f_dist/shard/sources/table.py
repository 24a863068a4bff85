"""A CSV, TSV or JSONL with a column that names the image and one that holds captions or the path of a voice."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from t2f_dist.shard.sources import Mention, Source
from t2f_dist.storage import url
from t2f_dist.storage.stage import staged

LINE_LENGTH_MAX = 1 << 24  # of a JSONL
TABLE_BYTES_MAX = 4 << 30  # that are fetched from elsewhere
CAPTION_COLUMNS = ("caption", "captions", "description", "text")
AUDIO_COLUMNS = ("audio", "speech", "voice", "path")


def read(
    place: str | Path, image_column: str, value_column: str | None, usual: Sequence[str], identity_column: str
) -> Source:
    """One mention a value; a JSONL may hold a list of them in one row, and an image may have several rows.

    Args:
        place: its path or URL.
        value_column: its name, or None for the first of `usual` that the table has.

    Raises:
        ValueError: a column is missing, or a line is not readable.
        OSError: the table cannot be read.
    """
    mentions = []
    path, shown = staged(place, TABLE_BYTES_MAX), url.shown(place)
    folder, name = url.split(place)
    for number, row in _jsonl(path, shown) if path.suffix == ".jsonl" else _csv(path, shown):
        where = f"{name}: line {number}"
        column = value_column or next((name for name in usual if name in row), None)
        missing = image_column if image_column not in row else column if column not in row else None
        if column is None or missing is not None:
            wanted = missing or " or ".join(usual)
            raise ValueError(
                f"{shown}: line {number} has no column {wanted}, only {', '.join(map(str, row))}; "
                "name the columns in the recipe"
            )
        image = row[image_column]
        identity = row.get(identity_column)
        values = row[column] if isinstance(row[column], list) else [row[column]]
        for value in values:
            mentions.append(Mention(str(image or ""), value, str(identity) if identity else None, where))
    return Source(folder, mentions)


def _csv(path: Path, shown: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, dialect="excel-tab" if path.suffix == ".tsv" else "excel", strict=True)
            for row in reader:
                if None in row:
                    raise ValueError(
                        f"{shown}: line {reader.line_num} has more fields than there are columns; "
                        "put captions with commas in double quotes"
                    )
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{shown}: line {reader.line_num}: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: not a text file in UTF-8 ({error.reason})") from None


def _jsonl(path: Path, shown: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(LINE_LENGTH_MAX + 1), ""), start=1):
                if len(line) > LINE_LENGTH_MAX:
                    raise ValueError(f"{shown}: line {number} has more than {LINE_LENGTH_MAX} letters")
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{shown}: line {number} is not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise ValueError(f"{shown}: line {number} is not a JSON object: {line.strip()[:80]}")
                yield number, row
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: not a text file in UTF-8 ({error.reason})") from None
