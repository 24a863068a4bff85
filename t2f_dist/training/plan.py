"""What a configuration will do, as a table: for --dry-run, before there is a launcher, a GPU or even shards."""

from __future__ import annotations

import torch

from t2f_dist.config.condition import Stored
from t2f_dist.config.schema import Config
from t2f_dist.data.loader import open_samples
from t2f_dist.models.facts import Facts
from t2f_dist.models.networks import build
from t2f_dist.training.corpus import facts
from t2f_dist.training.growth import Growth, legal_world_sizes, num_parts

# What is known only with the shards.
NOMINAL = Facts(num_words=1000, embedding_size=384, sample_rate_hz=16_000, num_identities=100)


def describe(config: Config, world_size: int) -> str:
    """The table, of the shards that the configuration names where they can be read; else a line that says why not."""
    try:
        samples = open_samples(config)
    except (ValueError, OSError) as error:
        return f"{table(config, world_size)}\nencoders counted for {_counted(config, NOMINAL)}; the shards: {error}"
    known = facts(samples)
    samples.close()
    return f"{table(config, world_size, known)}\nencoders counted for {_counted(config, known)}"


def _counted(config: Config, known: Facts) -> str:
    words = f"{known.num_words:,} words"
    if isinstance(config.condition.caption, Stored):
        words = f"stored embeddings of {known.embedding_size}"
    each = {
        "caption": words,
        "speech": f"voices of {known.sample_rate_hz:,} Hz",
        "identity": f"{known.num_identities:,} identities",
    }
    return ", ".join(each[name] for name in config.condition.modalities) or "no condition"


def table(config: Config, world_size: int, known: Facts = NOMINAL) -> str:
    """Stages with their images, steps, parameters and bytes exchanged, and the numbers of ranks that fit."""
    with torch.device("meta"):
        networks = build(config, known)
    growth = Growth(config.stages)
    names = ("stage", "resolution", "fade images", "stable images", "batch", "steps", "parts a rank", "generator")
    lines = ["  ".join((*names, "discriminator", "exchange a step"))]
    for number, stage in enumerate(config.stages):
        sizes = {}
        for side in ("generator", "discriminator"):
            # The widest moment of a stage: the image layer that fades out is still there.
            layers = networks.active(side, stage.resolution, fading=bool(stage.fade_images))
            parameters = {id(p): p for layer in layers for p in layer.parameters()}
            sizes[side] = sum(p.numel() for p in parameters.values())
        width = 8 if config.train.precision == "fp64" else 4
        exchange = sum(sizes.values()) * width / 1e6
        cells = (
            f"{number:>5}",
            f"{stage.resolution:>10}",
            f"{stage.fade_images:>11,}",
            f"{stage.stable_images:>13,}",
            f"{stage.batch_size:>5}",
            f"{growth.num_steps(number):>5,}",
            f"{num_parts(config, stage.batch_size, world_size):>12}",
            f"{sizes['generator']:>9,}",
            f"{sizes['discriminator']:>13,}",
            f"{exchange:>12.2f} MB",
        )
        lines.append("  ".join(cells))
    lines.append(
        "parameters are those trained; exchange: gradients that a rank gives in a step, where there are several"
    )
    lines.append(f"total  {growth.total_images:,} images")
    legal = legal_world_sizes(config)
    lines.append(f"ranks that share every batch without cutting a group: {', '.join(map(str, legal))}")
    return "\n".join(lines)
