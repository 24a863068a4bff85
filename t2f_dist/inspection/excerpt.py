"""A few samples of a split, spread evenly over it, read whole to be shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from t2f_dist.inspection.shelf import Shelf
from t2f_dist.inspection.table import printable
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import Manifest
from t2f_dist.shard.picture import flat, opened, square
from t2f_dist.storage import url

CAPTION_LETTERS_MAX = 2_000
CAPTIONS_MAX = 50


@dataclass(frozen=True)
class Excerpt:
    key: str
    image: Image.Image  # RGB, square of the manifest's resolution
    captions: list[str]  # cut where they would fill a page
    num_captions: int
    speech: bytes  # FLAC; empty for none
    seconds: float  # of speech


def excerpts(place: str | Path, split: str, num: int) -> list[Excerpt]:
    """Up to `num` samples of a split of the shards at a path or URL, in their order.

    Raises:
        FileNotFoundError, ValueError, OSError: the shards are missing or damaged, or the split is empty.
    """
    with Shelf(place) as shelf:
        total = shelf.manifest.num_samples(split)
        if total == 0:
            raise ValueError(f"{place} has no samples in {split}")
        wanted = np.unique(np.linspace(0, total - 1, min(num, total)).round().astype(np.int64))
        found: list[Excerpt] = []
        start = 0
        for shard in shelf.manifest.shards(split):
            rows = wanted[(wanted >= start) & (wanted < start + shard.num_samples)] - start
            start += shard.num_samples
            if not len(rows):
                continue
            with shelf.index(shard) as index:
                records = np.array(index[rows])
            with shelf.small(shard) as small, shelf.tar(shard, records) as tar:
                try:
                    found += [_excerpt(tar, small, record, shelf.manifest) for record in records]
                except ValueError as error:
                    said = printable(f"{url.shown(shard.name)}: {error}")
                    raise ValueError(f"{said}; t2f-dist verify {place} looks for all damage") from None
    return found


def _excerpt(tar: int, small: int, record: np.void, manifest: Manifest) -> Excerpt:
    sample = shard_format.read_sample(tar, record, ("image", "speech"))
    recipe = manifest.image
    image = flat(opened(lambda: sample["image"]).image, recipe.background)
    image = image if manifest.squared else square(image, recipe)
    captions = shard_format.captions(shard_format.captions_copy(small, record))
    return Excerpt(
        key=shard_format.sample_key(tar, record),
        image=image,
        captions=[caption[:CAPTION_LETTERS_MAX] for caption in captions[:CAPTIONS_MAX]],
        num_captions=int(record["num_captions"]),
        speech=sample["speech"],
        seconds=int(record["speech_samples"]) / (manifest.sample_rate_hz or 1),
    )
