"""Samples of shards with an index: any position at once, the same item in every process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np

from t2f_dist.config.condition import Lstm, Modality, Stored
from t2f_dist.data.dataset import Example, Samples, Wanted
from t2f_dist.data.order import Order, Place, Window, lanes
from t2f_dist.data.shards import Shards, open_default
from t2f_dist.data.source import Ahead
from t2f_dist.shard.format import DamagedSample
from t2f_dist.shard.levels import LEVELS
from t2f_dist.shard.manifest import Manifest
from t2f_dist.storage import url
from t2f_dist.storage.cache import Cache
from t2f_dist.text.vocabulary import Vocabulary

MAX_LOOKED_AT = 4096  # samples, in search of examples


class IndexedSamples(Samples):
    """Random access.

    Args:
        place: folder or URL, with manifest.json.
        split: train, validation or test.
        seed: of the run.
        window_shards, num_lanes: see `Order`.
        wanted: what an item holds.
        train_split: the split whose identities are numbered; one that is not in it has no class.
        cache: makes that of shards that are remote.

    Raises:
        FileNotFoundError, ValueError: the shards are missing, damaged, hold nothing in `split`, or lack a modality.
    """

    def __init__(
        self,
        place: str | Path,
        split: str,
        seed: int,
        window_shards: int,
        wanted: Wanted,
        train_split: str | None = None,
        num_lanes: int = 1,
        cache: Callable[[], Cache] = open_default,
    ):
        self.shards = Shards(place, split, cache)
        counts = [shard.num_samples for shard in self.shards.listed]
        if num_lanes > len(counts):
            raise ValueError(f"data.lanes {num_lanes} is more than the {len(counts)} shards of {split}: lower it")
        manifest = self.shards.manifest
        _check_held(manifest, place, wanted.modalities)
        vocabulary = None
        if "caption" in wanted.modalities and manifest.vocabulary is not None:
            vocabulary = Vocabulary.from_json(manifest.read_vocabulary(place))
        identities = np.zeros(0, dtype=np.uint64)
        names: list[str] = []
        if wanted.identities or "identity" in wanted.modalities:
            other = train_split not in (None, split)
            numbered = Shards(place, train_split, cache) if other and train_split else self.shards
            identities = numbered.identities()
            names = numbered.names(identities) if "identity" in wanted.modalities else []
            numbered.close()
        self.orders = lanes(counts, seed, window_shards, num_lanes)
        super().__init__(place, self.shards, self.orders, seed, wanted, vocabulary, identities, names)
        self.remedy = f"run `t2f-dist verify {url.shown(place)}`"
        self.remote = self.shards.remote
        # Images of others may have been left as they are: then any resolution is read from the tars.
        self._has_levels = manifest.squared or bool(manifest.recipe.get("levels", True))
        self._reading: dict[int, Window] = {}  # by lane

    @property
    def order(self) -> Order:
        """Of the first lane, which is all where there is one."""
        return self.orders[0]

    def needs_tar(self, resolution: int) -> bool:
        """Whether samples at a resolution are read from the tars, and not from the small files alone."""
        return resolution > LEVELS[-1] or bool(self._conditions) or not self._has_levels

    def _enter(self, lane: int, window: Ahead) -> None:
        """Tell which shards are read; of a cache, those of windows that are past can be evicted then."""
        if self._reading.get(lane) is not window:
            self._reading[lane] = cast(Window, window)
            self.shards.reads({number for each in self._reading.values() for number in each.shards})

    def _one_identity(self, position: int, window: Ahead) -> str:
        return (
            f"{url.shown(self.place)}: no second identity within {self.order.window_shards} shards of position"
            f" {position}: mismatched conditions and images need at least two; raise data.shuffle_window_shards, or"
            " shard with --identity"
        )

    def examples(self, num: int) -> list[Example]:
        """In the order of the shards."""
        found: dict[str, Example] = {}
        places = (Place(n, row) for n, shard in enumerate(self.shards.listed) for row in range(shard.num_samples))
        for place in islice(places, MAX_LOOKED_AT):
            try:
                _, members = self._read(place, 0, False, self._conditions)
                condition = self._condition(place, members, choice=0, start=0.0)
            except DamagedSample:
                continue  # counted where it is read as a sample
            if not all(len(values) for values in condition.values()):
                continue
            label = self._label(place, condition)
            found.setdefault(label, Example(condition, label))
            if len(found) == num:
                break
        self.close()
        return list(found.values())

    def close(self) -> None:
        self.shards.close()


def _check_held(manifest: Manifest, folder: str | Path, modalities: Mapping[str, Modality]) -> None:
    """Raise ValueError for a modality that the shards lack."""
    shown = url.shown(folder)
    if isinstance(modalities.get("caption"), Lstm) and manifest.vocabulary is None:
        raise ValueError(f"{shown} holds no captions: shard with --captions, or set condition.caption null")
    if isinstance(modalities.get("caption"), Stored) and manifest.embedding is None:
        raise ValueError(
            f"{shown} holds no caption embeddings: shard with --embed MODEL_DIR, or use condition.caption.kind lstm"
        )
    if "speech" in modalities and manifest.sample_rate_hz is None:
        raise ValueError(f"{shown} holds no voices: shard with --speech, or set condition.speech null")
