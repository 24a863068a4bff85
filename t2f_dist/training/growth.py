"""Growth as a pure function of images seen: what is trained, at which resolution, how far faded in.

Every rank computes it from the same integer, so that no rank needs to tell another, and a resumed run is where it was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from t2f_dist.config.schema import Config, Stage


@dataclass(frozen=True)
class Phase:
    """The schedule at one moment.

    `alpha` in [0, 1] is the newest block's share in the picture; it rises linearly over the stage's `fade_images`.
    """

    stage: int
    step: int  # since the beginning of the run
    resolution: int
    alpha: float
    batch_size: int
    learning_rate_factor: float

    @property
    def fading(self) -> bool:
        return self.alpha < 1


class Growth:
    """The schedule of a configuration's stages."""

    def __init__(self, stages: tuple[Stage, ...]):
        self.stages = stages
        self.ends = list(accumulate(stage.num_images for stage in stages))
        self.total_images = self.ends[-1]

    def at(self, images_seen: int) -> Phase:
        """The phase of the step that starts at `images_seen` (past the end: the last one)."""
        index = min(bisect_right(self.ends, images_seen), len(self.stages) - 1)
        stage = self.stages[index]
        into = images_seen - (self.ends[index] - stage.num_images)
        alpha = min(1.0, into / stage.fade_images) if stage.fade_images else 1.0
        before = sum(self.num_steps(earlier) for earlier in range(index))
        step = before + (images_seen - self._first_step(index)) // stage.batch_size
        return Phase(index, step, stage.resolution, alpha, stage.batch_size, stage.learning_rate_factor)

    def steps(self, images_seen: int) -> Iterator[tuple[int, int, int]]:
        """(images seen before it, global batch size, resolution) of each step from `images_seen` to the end."""
        while images_seen < self.total_images:
            phase = self.at(images_seen)
            yield images_seen, phase.batch_size, phase.resolution
            images_seen += phase.batch_size

    def num_steps(self, stage: int) -> int:
        """Steps that start within a stage, in a run from the beginning."""
        start = self._first_step(stage)
        return -(-(self.ends[stage] - start) // self.stages[stage].batch_size) if start < self.ends[stage] else 0

    def _first_step(self, stage: int) -> int:
        """Images seen at the first step of a stage: a step of the stage before may reach into it."""
        start = 0
        for end, earlier in zip(self.ends[:stage], self.stages, strict=False):
            if start < end:
                start += -(-(end - start) // earlier.batch_size) * earlier.batch_size
        return start


def due(every_images: int, images_seen: int, batch_size: int) -> bool:
    """Whether a step from `images_seen` to `images_seen + batch_size` reaches a multiple of `every_images`."""
    return (images_seen + batch_size) // every_images > images_seen // every_images


def legal_world_sizes(config: Config) -> list[int]:
    """Numbers of ranks that share out every stage's batch equally without cutting a group of a loss term."""
    shares = [stage.batch_size // config.group_size for stage in config.stages]
    return [size for size in range(1, min(shares) + 1) if all(share % size == 0 for share in shares)]


def num_parts(config: Config, batch_size: int, world_size: int) -> int:
    """Equal parts in which a rank goes through its share of a global batch, accumulating gradients.

    Raises ValueError, naming the legal numbers of ranks, where the launch would cut a group of a layer or a term; and
    where `batch_per_gpu_max` is smaller than such a group.
    """
    if world_size not in legal_world_sizes(config):
        raise ValueError(
            f"{world_size} ranks cannot share a batch of {batch_size} without cutting the groups of"
            f" {config.group_size} images that layers and loss terms compare. Numbers of ranks that fit:"
            f" {', '.join(map(str, legal_world_sizes(config)))}; or change batch_size"
        )
    share = batch_size // world_size
    limit = config.train.batch_per_gpu_max or share
    groups = share // config.group_size
    for parts in range(1, groups + 1):
        if groups % parts == 0 and share // parts <= limit:
            return parts
    raise ValueError(
        f"train.batch_per_gpu_max {limit} is below the group of {config.group_size} images that layers and loss terms"
        f" compare: raise it to at least {config.group_size}, or lower the group sizes of the networks and losses"
    )
