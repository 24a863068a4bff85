"""A configuration small enough to be trained to the end within a test, in either recipe."""

from pathlib import Path
from typing import Any

from t2f_dist.config.load import resolve
from t2f_dist.config.schema import Config

HOUSE: dict[str, Any] = {
    "generator": {"z_size": 6, "channels": [12, 8], "convs_per_block": 1},
    "discriminator": {"channels": [12, 8], "convs_per_block": 1, "stddev_group_size": 2, "head_size": 8},
    "text_encoder": {"embedding_size": 6, "hidden_size": 4},
    "conditioning": {"size": 4},
    "data": {"mismatch_candidates": 3, "num_workers": 0},
    "loss": {
        "penalty": {"kind": "r1", "weight": 0.5, "every_images": 16},
        "contrastive": {"discriminator_weight": 1.0, "generator_weight": 1.0, "group_size": 4, "size": 6},
    },
}
T2F: dict[str, Any] = {
    "generator": {"z_size": 6, "channels": [12, 8], "convs_per_block": 2},
    "discriminator": {"channels": [12, 8], "stddev_group_size": 4, "head": "concat", "head_size": 4},
    "text_encoder": {
        "embedding_size": 6, "hidden_size": 8, "num_layers": 2, "bidirectional": False, "pooling": "last",
        "trained_by": "generator",
    },
    "conditioning": {"size": 4, "kl_weight": 1.0},
    "data": {"num_workers": 0},
    "loss": {"adversarial": "wgan", "drift_weight": 1e-3, "penalty": {"kind": "wgan_gp", "weight": 10.0}},
}  # fmt: skip
RECIPES = {"house": HOUSE, "t2f": T2F}


def config(recipe: str, shards: Path, run: Path, *overrides: str, batch_size: int = 8) -> Config:
    """Two stages, 4 and 8 pixels, in float64 unless overridden; 6 + 10 steps of 8 images."""
    mapping = RECIPES[recipe] | {
        "run": str(run),
        "stages": [
            {"resolution": 4, "stable_images": 48, "batch_size": batch_size},
            {"resolution": 8, "fade_images": 48, "stable_images": 32, "batch_size": batch_size},
        ],
        "train": {"precision": "fp64"},
        "wandb": {"mode": "disabled"},
        "log": {"every_images": 40, "grid_every_images": 80, "grid_captions": 3, "grid_images": 2},
        "snapshot": {"every_images": 64},
        "checkpoint": {"every_images": 40},
    }
    return resolve(Config, mapping, [f"data.shards={shards}", *overrides])
