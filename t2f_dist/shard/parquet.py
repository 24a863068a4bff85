"""The table that img2dataset writes beside a tar, `00000.parquet`: what became of each key, and its caption."""

from __future__ import annotations

from pathlib import Path

FILE_BYTES_MAX = 1 << 28
ROWS_MAX = 1_000_000
BATCH_ROWS = 1_000
VALUE_LENGTH_MAX = 1 << 20  # letters of a caption
TABLE_LENGTH_MAX = 1 << 29  # letters of all that is kept


def rows(path: Path, columns: tuple[str, ...]) -> dict[str, dict[str, object]]:
    """Key -> the columns of its row, those of `columns` that there are; of a key that stands twice, the first.

    Raises:
        ValueError: pyarrow is not installed, or the file is no table, has no column `key`, or is too large.
        OSError: it cannot be read.
    """
    try:
        from pyarrow import parquet  # an optional extra
    except ImportError:
        raise ValueError(f"{path.name} is read by pyarrow: pip install 't2f-dist[parquet]'") from None
    size = path.stat().st_size
    if size > FILE_BYTES_MAX:
        raise ValueError(f"{path.name}: {size} bytes; at most {FILE_BYTES_MAX} are read")
    try:
        with parquet.ParquetFile(
            path, thrift_string_size_limit=FILE_BYTES_MAX, thrift_container_size_limit=ROWS_MAX
        ) as plain:
            names = list(plain.schema_arrow.names)
            num_rows = plain.metadata.num_rows
        wanted = ["key", *(name for name in columns if name in names)]
        found = None if "key" not in names or num_rows > ROWS_MAX else _read(path, wanted)
    except Exception as error:  # of a broken file pyarrow raises nearly anything
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path.name}: not a readable table: {text}") from None
    if found is None:
        raise ValueError(f"{path.name}: {num_rows} rows, columns {names[:20]}; expected 'key', and {ROWS_MAX} at most")
    return found


def _read(path: Path, wanted: list[str]) -> dict[str, dict[str, object]]:
    from pyarrow import parquet

    found: dict[str, dict[str, object]] = {}
    shared: dict[str, str] = {}  # text that is repeated is one text, however many rows say that they have it
    room = TABLE_LENGTH_MAX
    texts = [name for name in wanted if name != "key"]
    with parquet.ParquetFile(path, read_dictionary=texts) as table:
        for batch in table.iter_batches(BATCH_ROWS, columns=wanted):
            for number, key in enumerate(batch.column("key").to_pylist()):
                if not isinstance(key, str | int) or len(found) >= ROWS_MAX or str(key) in found:
                    continue
                row = {name: batch.column(name)[number].as_py() for name in texts}  # one by one: each may be large
                for name, value in row.items():
                    if not isinstance(value, str):
                        continue
                    text = value[:VALUE_LENGTH_MAX]
                    room -= 0 if text in shared else len(text)
                    row[name] = shared.setdefault(text, text)
                if room < 0:
                    raise ValueError(f"more than {TABLE_LENGTH_MAX:,} letters")
                found[str(key)] = row
    return found
