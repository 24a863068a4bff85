"""What is in a directory of shards, for the eye: a table of counts, and a contact sheet of faces with captions."""

import contextlib
import io
import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.format import Manifest
from t2f_dist.text.words import words

FACE = 160  # pixels a side on the sheet, about
MARGIN = 12
FONT_SIZE = 13
LINES_MAX = 9


@dataclass
class Count:
    """The samples of one split.

    Attributes:
        identities: how many differ.
        captions, words, seconds: of captions in each sample, of words in each caption, of speech in each voice.
    """

    samples: int
    shards: int
    bytes: int
    identities: int
    captions: np.ndarray
    words: np.ndarray
    seconds: np.ndarray


def count(directory: str | Path, split: str) -> Count:
    """Read the indices and captions of a split.

    Raises:
        FileNotFoundError, ValueError: the shards are missing or damaged.
    """
    manifest = Manifest.load(directory)
    shards = manifest.shards(split)
    indices = [shard_format.open_index(directory, shard) for shard in shards]
    index = np.concatenate(indices) if indices else np.zeros(0, shard_format.INDEX_DTYPE)
    lengths = [
        len(words(caption))
        for shard, records in zip(shards, indices)
        for sample in _members(directory, shard, records, ("captions",))
        for caption in shard_format.captions(sample["captions"])
    ]
    spoken = index["speech_samples"][index["speech_samples"] > 0]
    return Count(
        samples=len(index),
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        identities=len(np.unique(index["identity"])),
        captions=index["num_captions"].astype(int),
        words=np.array(lengths, dtype=int),
        seconds=spoken / (manifest.sample_rate_hz or 1),
    )


def table(directory: str | Path) -> str:
    """The counts of a directory as text.

    Raises:
        FileNotFoundError, ValueError: the shards are missing or damaged.
    """
    manifest = Manifest.load(directory)
    voices = f", voices at {manifest.sample_rate_hz} Hz" if manifest.sample_rate_hz else ", no voices"
    vocabulary = f", vocabulary of {manifest.vocabulary.num_words} words" if manifest.vocabulary else ", no captions"
    embeddings = ", no embeddings"
    if manifest.embedding:
        whose = f"by {manifest.embedding.model}" if manifest.embedding.source == "model" else "of the corpus"
        embeddings = f", embeddings of {manifest.embedding.size} values {whose}"
    lines = [
        f"{directory}: {manifest.image_resolution}x{manifest.image_resolution} {manifest.image_format}"
        f"{vocabulary}{embeddings}{voices}",
        f"fingerprint {manifest.fingerprint}",
        "",
        f"{'':<11}{'found':>9}{'stored':>9}{'rejected':>9}{'unmatched':>10}",
    ]
    for kind, total in manifest.totals.items():
        lines.append(f"{kind:<11}{total.found:>9}{total.stored:>9}{total.rejected:>9}{total.unmatched:>10}")
    lines += [
        "",
        f"{'split':<11}{'samples':>9}{'identities':>12}{'shards':>8}{'MB':>9}  {'captions/image':>16}"
        f"{'words/caption':>16}{'voices':>9}{'seconds/voice':>18}",
    ]
    for split in shard_format.SPLITS:
        found = count(directory, split)
        lines.append(
            f"{split:<11}{found.samples:>9}{found.identities:>12}{found.shards:>8}{found.bytes / 1e6:>9.1f}  "
            f"{_spread(found.captions, '.0f'):>16}{_spread(found.words, '.0f'):>16}{len(found.seconds):>9}"
            f"{_spread(found.seconds, '.1f'):>18}"
        )
    lines.append("(a-b~c: from a to b, c on average)")
    return "\n".join(lines)


def sheet(directory: str | Path, split: str, num: int, columns: int) -> Image.Image:
    """A contact sheet of samples spread evenly over a split: face, captions under it, key and voice.

    Raises:
        FileNotFoundError, ValueError: the shards are missing or damaged, or the split is empty.
    """
    manifest = Manifest.load(directory)
    total = manifest.num_samples(split)
    if total == 0:
        raise ValueError(f"{directory} has no samples in {split}")
    wanted = sorted(set(np.linspace(0, total - 1, min(num, total)).round().astype(int).tolist()))
    font = ImageFont.load_default(FONT_SIZE)
    cells = [_cell(key, sample, record, manifest, font) for key, sample, record in _pick(directory, split, wanted)]
    columns = min(columns, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + MARGIN for row in rows]
    page = Image.new("RGB", (columns * (cells[0].width + MARGIN) + MARGIN, sum(heights) + MARGIN), "white")
    top = MARGIN
    for row, height in zip(rows, heights):
        for column, cell in enumerate(row):
            page.paste(cell, (MARGIN + column * (cell.width + MARGIN), top))
        top += height
    return page


def _pick(directory: str | Path, split: str, wanted: list[int]) -> Iterator[tuple[str, dict[str, bytes], np.void]]:
    start = 0
    for shard in Manifest.load(directory).shards(split):
        rows = [row - start for row in wanted if start <= row < start + shard.num_samples]
        start += shard.num_samples
        if rows:
            records = shard_format.open_index(directory, shard)[rows]
            with _opened(directory, shard) as descriptor:
                for record in records:
                    sample = shard_format.read_sample(descriptor, record, ("image", "captions"))
                    yield shard_format.sample_key(descriptor, record), sample, record


def _cell(key: str, sample: dict[str, bytes], record: np.void, manifest: Manifest, font) -> Image.Image:
    width = FACE + 60
    # Small images at a whole multiple, so that every pixel shows as it is.
    side = manifest.image_resolution * round(FACE / manifest.image_resolution) or FACE
    with Image.open(io.BytesIO(sample["image"])) as image:
        smaller = side < manifest.image_resolution
        face = image.convert("RGB").resize((side, side), Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)
    letters = int(width / font.getlength("abcdefghijklmnopqrstuvwxyz ") * 27)
    lines = []
    for caption in shard_format.captions(sample["captions"]):
        lines += textwrap.wrap(caption, letters, initial_indent="- ", subsequent_indent="  ")
    if len(lines) > LINES_MAX:
        lines = [*lines[: LINES_MAX - 1], "  ..."]
    spoken = int(record["speech_samples"])
    voice = f"voice {spoken / manifest.sample_rate_hz:.1f} s" if spoken and manifest.sample_rate_hz else "no voice"
    step = FONT_SIZE + 4
    cell = Image.new("RGB", (width, side + 6 + step * (len(lines) + 2)), "white")
    cell.paste(face, (0, 0))
    draw = ImageDraw.Draw(cell)
    name = key
    while font.getlength(name) > width:
        name = "..." + name[4:]
    draw.text((0, side + 4), name, fill="#555555", font=font)
    draw.text((0, side + 4 + step), f"{voice}, {record['num_captions']} captions", fill="#555555", font=font)
    for number, line in enumerate(lines, start=2):
        draw.text((0, side + 4 + number * step), line, fill="black", font=font)
    return cell


def _members(directory: str | Path, shard: shard_format.Shard, records: np.ndarray, names: tuple[str, ...]):
    with _opened(directory, shard) as descriptor:
        for record in records:
            yield shard_format.read_sample(descriptor, record, names)


@contextlib.contextmanager
def _opened(directory: str | Path, shard: shard_format.Shard) -> Iterator[int]:
    descriptor = shard_format.open_shard(directory, shard)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _spread(values: np.ndarray, style: str) -> str:
    return f"{values.min():{style}}-{values.max():{style}}~{values.mean():.1f}" if len(values) else "-"
