"""Does the discriminator know its reals by heart? Its scores of photographs that it learns from, and of others.

The gap between the two is the plainest sign of overfitting (2006.06676, figure 1).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from t2f_dist.config.schema import Config
from t2f_dist.data.batch import Batch
from t2f_dist.data.dataset import Samples
from t2f_dist.data.loader import open_samples
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase
from t2f_dist.training.part import Part

SPLITS = {"training": "train", "held_out": "validation"}


class HeldOut:
    """The same samples of each split all along. Only the main rank looks at them, while the others wait.

    So they stand side by side: of remote shards one a split is fetched, or as many as it takes where shards are small,
    and not one for each sample.
    """

    def __init__(self, config: Config, samples: Samples):
        self.num = -(-config.log.held_out_images // config.group_size) * config.group_size
        self.sources: dict[str, Samples] = {}
        known = config.condition.identity is None  # identities that are held out have no number
        if self.num and known and config.data.split == "train" and samples.manifest.num_samples("validation"):
            beside = config.model_copy(update={"data": config.data.model_copy(update={"shuffle_window_shards": 1})})
            self.sources = {name: _whole(open_samples(beside, split)) for name, split in SPLITS.items()}
        self._batches: dict[tuple[str, int], Batch] = {}

    @torch.no_grad()
    def scores(self, gan: Gan, phase: Phase) -> dict[str, float]:
        """Mean scores of either split's reals, not augmented; empty where the shards have no validation split."""
        scores = {}
        for name, source in self.sources.items():
            part = Part(gan, self._batch(name, source, phase.resolution).to(gan.device, gan.precision.weights), phase)
            embedding = part.encode(part.batch.condition)
            scores[f"reals/{name}"] = float(part.judge(part.reals, embedding)[1].mean())
        return scores

    def _batch(self, name: str, source: Samples, resolution: int) -> Batch:
        key = (name, resolution)
        if key not in self._batches:
            self._batches = {kept: batch for kept, batch in self._batches.items() if kept[1] == resolution}
            self._batches[key] = source.batch([(position, resolution) for position in range(self.num)])
            source.close()
        return self._batches[key]

    def close(self) -> None:
        for source in self.sources.values():
            source.close()


def _whole(samples: Samples) -> Samples:
    """With all that a sample has and nothing of another: of a validation split there may be one identity alone."""
    wanted = samples.wanted
    modalities = {name: modality.model_copy(update={"dropout": 0.0}) for name, modality in wanted.modalities.items()}
    wishes = wanted.wishes._replace(augment=False)
    samples.wanted = replace(wanted, modalities=modalities, mismatched=frozenset(), wishes=wishes)
    return samples
