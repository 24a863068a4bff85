"""What a configuration will do, as a table: for --dry-run, without shards, launcher or training."""

from __future__ import annotations

import torch

from t2f_dist.config.schema import Config
from t2f_dist.models.condition import Facts
from t2f_dist.models.networks import build
from t2f_dist.training.growth import Growth, legal_world_sizes, num_parts

# What is known only with the shards.
NOMINAL = Facts(num_words=1000, embedding_size=384, sample_rate_hz=16_000, num_identities=100)


def table(config: Config, world_size: int) -> str:
    """Stages with their images, steps, parameters and bytes exchanged, and the numbers of ranks that fit."""
    with torch.device("meta"):
        networks = build(config, NOMINAL)
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
    lines.append(
        f"total  {growth.total_images:,} images; encoders counted for {NOMINAL.num_words:,} words, stored embeddings"
        f" of {NOMINAL.embedding_size}, voices of {NOMINAL.sample_rate_hz} Hz, {NOMINAL.num_identities} identities"
    )
    legal = legal_world_sizes(config)
    lines.append(f"ranks that share every batch without cutting a group: {', '.join(map(str, legal))}")
    return "\n".join(lines)
