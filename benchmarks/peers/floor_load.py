"""Reading and decoding alone, into batches of pictures, in the order of a permutation: no captions, no checksums.

Up to 32 pixels the raw level is read; above, the JPEG, which is decoded at the scale that reaches the resolution and
reduced by box from there.
"""

import io
import os
from pathlib import Path

import numpy as np
import ready
import torch
from PIL import Image

from t2f_dist.shard import format as shard_format
from t2f_dist.shard import levels
from t2f_dist.shard.manifest import Manifest


def places(folder: Path, raw: bool) -> list[tuple[int, int, int]]:
    """(descriptor, offset, length) of each sample, shuffled."""
    found = []
    for shard in Manifest.load(folder).shards("train"):
        descriptor = os.open(folder / (shard.small if raw else shard.name), os.O_RDONLY)
        index = shard_format.open_index(folder / shard.index, shard)
        name = "lod" if raw else "image"
        pairs = zip(index[f"{name}_offset"].tolist(), index[f"{name}_length"].tolist())
        found += [(descriptor, offset, length) for offset, length in pairs]
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]


def answer(request: dict) -> dict:
    resolution = request["resolution"]
    raw = resolution in levels.LEVELS
    found = places(Path(request["folder"]), raw)
    shape = (ready.BATCH, 3, resolution, resolution)

    def small(batch: np.ndarray, chosen: list[tuple[int, int, int]]) -> None:
        end = levels.ENDS[resolution]
        begin = end - 3 * resolution * resolution
        rows = batch.reshape(len(batch), -1)
        for row, (descriptor, offset, _) in zip(rows, chosen):
            row[:] = np.frombuffer(os.pread(descriptor, end - begin, offset + begin), np.uint8)

    def decoded(batch: np.ndarray, chosen: list[tuple[int, int, int]]) -> None:
        for row, (descriptor, offset, length) in zip(batch, chosen):
            image = Image.open(io.BytesIO(os.pread(descriptor, length, offset)))
            image.draft("RGB", (resolution, resolution))
            image = image.convert("RGB")
            image = image if image.width == resolution else image.reduce(image.width // resolution)
            row[:] = np.asarray(image).transpose(2, 0, 1)

    def epoch():
        for start in range(0, len(found) - ready.BATCH + 1, ready.BATCH):
            batch = np.empty(shape, np.uint8)
            (small if raw else decoded)(batch, found[start : start + ready.BATCH])
            yield (torch.from_numpy(batch),)

    measured = ready.rate(epoch, request["seconds"], resolution)
    for descriptor in {descriptor for descriptor, _, _ in found}:
        os.close(descriptor)
    return measured


ready.serve(answer)
