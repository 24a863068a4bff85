"""Captions -> faces, as a grid or as single pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from t2f_dist.models.grid import grid
from t2f_dist.models.snapshot import Snapshot
from t2f_dist.text.vocabulary import Vocabulary

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


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


def vocabulary_of(snapshot: Snapshot) -> Vocabulary:
    """The words that a snapshot's encoder knows. Raises ValueError where the two do not belong together."""
    vocabulary = Vocabulary.from_json(snapshot.vocabulary)
    num_words = snapshot.generator.text_encoder.words.num_embeddings
    if len(vocabulary) != num_words:
        raise ValueError(f"the snapshot's vocabulary has {len(vocabulary):,} entries, its encoder {num_words:,}")
    return vocabulary


class Captions:
    """Captions as a snapshot reads them.

    `unknown` maps a caption to those of its words that the vocabulary lacks. Raises ValueError for a caption without
    any known word: a face drawn for it would have nothing to do with it.
    """

    def __init__(self, snapshot: Snapshot, captions: Sequence[str]):
        vocabulary = vocabulary_of(snapshot)
        self.texts = list(captions)
        self.tokens = [vocabulary.encode(caption, snapshot.config.data.max_words) for caption in captions]
        self.unknown = {caption: words for caption in captions if (words := vocabulary.unknown(caption))}
        for caption, tokens in zip(captions, self.tokens, strict=True):
            if not any(token > 1 for token in tokens):
                raise ValueError(
                    f"caption {caption!r} has no word of the vocabulary, which holds {len(vocabulary.words):,} words"
                    f" such as {', '.join(vocabulary.words[:8])}"
                )


def sample(snapshot: Snapshot, captions: Captions, num: int, seed: int) -> Tensor:
    """`num` faces for each caption, caption by caption -> uint8 [captions x num, 3, R, R].

    The n-th face of every caption is drawn from the same noise, so that columns of a grid differ by caption alone.
    """
    tokens = [row for row in captions.tokens for _ in range(num)]
    return snapshot.draw(tokens, list(range(num)) * len(captions.tokens), seed)


def check_suffix(out: Path) -> None:
    """Raises ValueError where `out` is no name for a grid."""
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out {out}: end it with one of {', '.join(SUFFIXES)} for a grid, or with / for a folder")


def save(images: Tensor, captions: Captions, out: Path, as_folder: bool) -> list[Path]:
    """A grid in the file `out`, or single pictures in the folder `out`; the paths written.

    Raises ValueError where the file's name has no picture suffix.
    """
    if not as_folder:
        check_suffix(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        grid(images, captions.texts).save(out)
        return [out]
    out.mkdir(parents=True, exist_ok=True)
    num = len(images) // len(captions.texts)
    paths = []
    for index, image in enumerate(images):
        row, column = divmod(index, num)
        slug = re.sub(r"[^a-z0-9]+", "-", captions.texts[row].lower()).strip("-")[:60]
        paths.append(out / f"{row:03d}-{slug}-{column:03d}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    return paths
