"""Conditions -> faces, as a grid or as single pictures."""

from __future__ import annotations

import math
import re
from pathlib import Path

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from t2f_dist.evaluation.conditions import Asked, Conditions
from t2f_dist.models.grid import MARGIN, enlarged, grid
from t2f_dist.models.snapshot import Snapshot

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VOICE_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
NUM = 8  # faces a row, where nothing else is said
SIDE_MAX = 16_000  # pixels of a grid: WebP takes hardly more, and neither do viewers


def read_captions(path: Path) -> list[str]:
    """The captions of a text file, one a line; empty lines are passed over.

    Raises FileNotFoundError, or ValueError where there is no caption.
    """
    try:
        captions = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8: give one caption a line") from None
    if not captions:
        raise ValueError(f"{path} holds no caption: give one a line")
    return captions


def find_voices(folder: Path) -> dict[str, str]:
    """Path -> path below the folder, of all audio files below it, in the natural order of those; nothing hidden.

    Raises FileNotFoundError, or ValueError where there is none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder of voices: {folder}")
    below = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in VOICE_SUFFIXES]
    shown = [path for path in below if not any(part.startswith(".") for part in path.parts)]
    found = sorted((path for path in shown if (folder / path).is_file()), key=_natural)
    if not found:
        raise ValueError(f"{folder} holds no voice: put files of {', '.join(VOICE_SUFFIXES)} there")
    return {str(folder / path): path.as_posix() for path in found}


def _natural(path: Path) -> list[list[tuple[int, int, str]]]:
    """So that `voice 10` stands after `voice 9`: runs of digits count as numbers, folder by folder."""
    return [
        [
            (0, int(digits), digits) if digits else (1, 0, text)
            for digits, text in re.findall("([0-9]+)|([^0-9]+)", part)
        ]
        for part in path.parts
    ]


def faces_a_row(snapshot: Snapshot, asked: Asked, num: int | None) -> tuple[int, str]:
    """How many faces a condition gets, and a line for the person who asks where that is not what they asked for.

    num: as asked for; None: as is usual.
    Raises ValueError where columns are voices, and several faces of each are asked for.
    """
    if asked.columns:
        if num not in (None, 1):
            raise ValueError(f"--num {num}: columns are voices here, with a face each; leave --num out, or vary --seed")
        return 1, ""
    if not snapshot.config.generator.z_size + snapshot.config.noise_size:
        said = "this generator takes no noise, so all faces of a condition would be the same: one is drawn"
        return 1, said if num != 1 else ""
    return num or NUM, ""


def sample(snapshot: Snapshot, conditions: Conditions, asked: Asked, num: int, seed: int) -> Tensor:
    """`num` faces for each condition, condition by condition -> uint8 [conditions x num, 3, R, R].

    The n-th face of every condition is drawn from the same noise, so that faces differ by what was asked alone.
    """
    cells = [cell for cell in asked.cells for _ in range(num)]
    with tqdm(total=len(cells), desc="drawing", unit="face", disable=None, leave=False) as bar:
        return snapshot.draw(conditions.inputs(cells), list(range(num)) * len(asked.cells), seed, progress=bar.update)


def check_suffix(out: Path) -> None:
    """Raises ValueError where `out` is no name for a grid."""
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out {out}: end it with one of {', '.join(SUFFIXES)} for a grid, or with / for a folder")


def check_size(asked: Asked, num: int, resolution: int) -> None:
    """Raises ValueError where `num` faces for each condition are too many for one grid."""
    total = num * len(asked.cells)
    rows = len(_rows(asked, total))
    side = SIDE_MAX // (enlarged(resolution) + MARGIN)
    if max(rows, math.ceil(total / rows)) > side:
        raise ValueError(
            f"{total:,} faces in {rows:,} row{'s' * (rows > 1)} are no grid, which has {side:,} a side at most: end"
            " --out with / for single pictures, or ask for fewer"
        )


def save(images: Tensor, asked: Asked, out: Path, as_folder: bool) -> list[Path]:
    """A grid in the file `out`, or single pictures in the folder `out`; the paths written.

    Raises ValueError where the file's name has no picture suffix.
    """
    if not as_folder:
        check_suffix(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        grid(images, _rows(asked, len(images)), asked.columns).save(out)
        return [out]
    out.mkdir(parents=True, exist_ok=True)
    columns = len(images) // len(asked.rows)
    paths = []
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        across = asked.columns[column] if asked.columns else ""
        parts = (f"{row:03d}", _slug(asked.rows[row]), f"{column:03d}", _slug(across))
        paths.append(out / f"{'-'.join(part for part in parts if part)}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    return paths


def _rows(asked: Asked, num: int) -> list[str]:
    """Labels of the grid's rows; faces without a condition fill as many rows as it takes, at least 8 in a row."""
    if any(asked.cells):
        return list(asked.rows)
    return [""] * math.ceil(num / max(NUM, math.ceil(math.sqrt(num))))


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[:60]
