"""How well a snapshot's faces match captions that it never saw: the caption agreement on drawn portraits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from t2f_dist.data.dataset import Samples, decode
from t2f_dist.evaluation.agreement import CaptionAgreement, agreement, caption_agreement, mean
from t2f_dist.evaluation.sample import vocabulary_of
from t2f_dist.models.snapshot import Snapshot
from t2f_dist.portraits.naming import named
from t2f_dist.portraits.reader import Reader
from t2f_dist.shard import format as shard_format

MIN_RESOLUTION = 16  # of the reader
MIN_REAL = 0.8  # agreement of real portraits; drawn ones are above .97


def evaluate(snapshot: Snapshot, shards: Path, split: str, num: int, seed: int) -> CaptionAgreement:
    """Draw a face for each of `num` captions of a split (fewer where it holds fewer), and read it.

    Raises ValueError where the split's identities also stand in the training split, or its captions are not of drawn
    portraits; and where the snapshot's faces are too small to be read.
    """
    if snapshot.resolution < MIN_RESOLUTION:
        raise ValueError(
            f"the snapshot draws faces of {snapshot.resolution} pixels, and attributes can be read from"
            f" {MIN_RESOLUTION} on: train further"
        )
    samples = Samples(shards, split, seed, window_shards=1, z_size=1, condition_size=1)
    if split != "train":
        _assert_unseen(samples, shards)
    num = min(num, samples.order.num_samples)
    captions, reals = [], []
    for position in range(num):
        place = samples.order.locate(position)
        members = samples.members(place)
        choices = shard_format.captions(members["captions"])
        captions.append(choices[position % len(choices)])
        reals.append(torch.from_numpy(decode(members["image"], samples.manifest.image_resolution).copy()))
    samples.close()
    names = [named(caption) for caption in captions]
    reader = Reader.load()
    real = reader.read(torch.stack(reals).permute(0, 3, 1, 2))
    own = mean(agreement(real, names))
    if not own > MIN_REAL:  # photographs; their captions may name hair and glasses too
        raise ValueError(
            f"{shards} holds no drawn portraits (of its own pictures {own:.2f} agree with their captions): agreement"
            " can be read from those alone"
        )
    vocabulary = vocabulary_of(snapshot)
    tokens = [vocabulary.encode(caption, snapshot.config.data.max_words) for caption in captions]
    images = snapshot.draw(tokens, list(range(num)), seed)
    return caption_agreement(reader.read(images), real, names, seed=seed)


def _assert_unseen(samples: Samples, shards: Path) -> None:
    def identities(split: str) -> np.ndarray:
        indices = [shard_format.open_index(shards, shard)["identity"] for shard in samples.manifest.shards(split)]
        return np.unique(np.concatenate(indices)) if indices else np.array([], dtype=np.uint64)

    own = np.unique(np.concatenate([shard_format.open_index(shards, shard)["identity"] for shard in samples.shards]))
    shared = np.intersect1d(own, identities("train"))
    if len(shared):
        raise ValueError(f"{shards}: {len(shared)} identities of the split are in the training split too")
