"""Configurations small enough to be trained to the end in a test: each network, condition and loss stands in one."""

from pathlib import Path
from typing import Any

from t2f_dist.config.load import resolve
from t2f_dist.config.schema import Config

LSTM = {"kind": "lstm", "embedding_size": 6, "hidden_size": 4}
LOG_MEL = {"kind": "log_mel", "seconds": 0.5, "num_mels": 8, "channels": [6, 6], "hidden_size": 4}
WAVEFORM = {"kind": "waveform", "seconds": 0.5, "channels": [2, 2, 2, 3, 3, 4], "hidden_sizes": [8], "size": 6}
NO_MATCH = {"weight": 0}

HOUSE: dict[str, Any] = {
    "condition": {"caption": LSTM},
    "conditioning": {"kind": "augmentation", "size": 4},
    "generator": {"kind": "progan", "z_size": 6, "channels": [12, 8], "convs_per_block": 1},
    "discriminator": {
        "kind": "progan", "channels": [12, 8], "convs_per_block": 1, "stddev_group_size": 2, "head_size": 8,
    },
    "data": {"mismatch_candidates": 3, "num_workers": 0},
    "loss": {
        "penalties": [{"kind": "r1", "weight": 0.5, "every_images": 16}],
        "contrastive": {"discriminator_weight": 1.0, "generator_weight": 1.0, "group_size": 4, "size": 6},
    },
}  # fmt: skip
T2F: dict[str, Any] = {
    "condition": {
        "caption": {
            "kind": "lstm", "embedding_size": 6, "hidden_size": 8, "num_layers": 2, "bidirectional": False,
            "pooling": "last",
        },
        "trained_by": "generator",
    },
    "conditioning": {"kind": "augmentation", "size": 4, "kl_weight": 1.0},
    "generator": {"kind": "progan", "z_size": 6, "channels": [12, 8], "normalize_latent": True},
    "discriminator": {
        "kind": "progan", "channels": [12, 8], "stddev_group_size": 4, "head": "concat", "head_size": 4,
        "from_rgb_activation": True,
    },
    "data": {"num_workers": 0},
    "loss": {
        "adversarial": {"kind": "wgan"},
        "drift_weight": 1e-3,
        "penalties": [{"kind": "wgan_gp", "weight": 10.0}],
    },
}  # fmt: skip
# A caption, a voice, both; negatives of earlier steps; both penalties, one of them lazy; ADA.
BOTH: dict[str, Any] = {
    **HOUSE,
    "condition": {"caption": LSTM | {"dropout": 0.3}, "speech": LOG_MEL | {"dropout": 0.4}},
    "data": {"mismatch_candidates": 2, "num_workers": 0, "flip": True},
    "loss": {
        "penalties": [{"kind": "r1", "weight": 0.1}, {"kind": "r2", "weight": 0.1, "every_images": 16}],
        "contrastive": {
            "discriminator_weight": 1.0, "generator_weight": 1.0, "group_size": 4, "size": 6, "queue_size": 12,
        },
    },
    "augment": {"kind": "ada", "initial_probability": 0.4, "target": 0.1, "every_images": 16, "images_to_one": 200},
}  # fmt: skip
MSGGAN: dict[str, Any] = {
    "condition": HOUSE["condition"],
    "conditioning": HOUSE["conditioning"],
    "generator": {"kind": "msggan", "z_size": 6, "channels": [12, 8]},
    "discriminator": {"kind": "msggan", "channels": [12, 8], "stddev_group_size": 4, "head": "concat", "head_size": 4},
    "data": {"num_workers": 0},
    "loss": {
        "adversarial": {"kind": "relativistic_average_hinge", "group_size": 4},
        "penalties": [{"kind": "r1", "weight": 0.1, "every_images": 16}],
    },
    "augment": {"kind": "diffaugment"},
}
# The GAN of Text-to-Image-Synthesis with all that it may add.
DCGAN: dict[str, Any] = {
    "condition": HOUSE["condition"] | {"trained_by": "generator"},
    "conditioning": {"kind": "projection", "size": 6},
    "generator": {"kind": "dcgan", "z_size": 6, "channels": [8], "batch_norm": True},
    "discriminator": {
        "kind": "dcgan", "channels": [8], "batch_norm": True, "head_size": 6,
        "minibatch_discrimination": {"num_kernels": 3, "kernel_size": 2, "group_size": 4},
    },
    "batch_norm": {"group_size": 4},
    "data": {"num_workers": 0},
    "loss": {
        "adversarial": {"kind": "non_saturating", "real_label": 0.9},
        "matching": {"mismatched": "image", "interpolation_weight": 0.5},
        "feature_matching": {"weight": 10.0, "group_size": 4},
        "l1_weight": 5.0,
        "identity": {"image_weight": 0.5},
    },
}  # fmt: skip
WGAN_CLIPPED: dict[str, Any] = {
    **DCGAN,
    "discriminator": {"kind": "dcgan", "channels": [8], "batch_norm": True, "head_size": 6},
    "loss": {"adversarial": {"kind": "wgan"}, "weight_clip": 0.05, "matching": {"mismatched": "image"}},
    "turns": {
        "discriminator_steps": 2, "warm_up_discriminator_steps": 3, "warm_up_generator_steps": 1,
        "warm_up_every_generator_steps": 3,
    },
}  # fmt: skip
UNCONDITIONAL: dict[str, Any] = {
    "generator": {"kind": "dcgan", "z_size": 6, "channels": [8], "batch_norm": True},
    "discriminator": {"kind": "dcgan", "channels": [8], "spectral_norm": True, "head": "unconditional"},
    "batch_norm": {"group_size": 4},
    "data": {"num_workers": 0},
    "loss": {"adversarial": {"kind": "hinge"}, "matching": NO_MATCH},
}
WAV2PIX: dict[str, Any] = {
    "condition": {"speech": WAVEFORM, "trained_by": "generator"},
    "generator": {
        "kind": "dcgan", "z_size": 0, "channels": [8], "spectral_norm": True, "dropout": 0.5, "dropout_of": "elements",
    },
    "discriminator": {"kind": "dcgan", "channels": [8], "spectral_norm": True, "head_size": None},
    "batch_norm": {"group_size": 4},
    "data": {"num_workers": 0},
    "loss": {
        "adversarial": {"kind": "least_squares", "real_label": 0.9},
        "matching": {"mismatched": "image"},
        "feature_matching": {"weight": 1.0, "group_size": 4},
        "identity": {"condition_weight": 2.0},
    },
}  # fmt: skip
IDENTITY: dict[str, Any] = {
    "condition": {"identity": {"kind": "one_hot"}},
    "conditioning": {"kind": "projection", "size": 6},
    "generator": {"kind": "dcgan", "z_size": 6, "channels": [8], "spectral_norm": True, "dropout": 0.5},
    "discriminator": {"kind": "dcgan", "channels": [8], "spectral_norm": True, "head_size": 6},
    "batch_norm": {"group_size": 4},
    "data": {"num_workers": 0},
    "loss": {"adversarial": {"kind": "least_squares", "real_label": 0.9}, "matching": {"mismatched": "image"}},
}
RECIPES = {
    "house": HOUSE,
    "t2f": T2F,
    "both": BOTH,
    "msggan": MSGGAN,
    "dcgan": DCGAN,
    "wgan_clipped": WGAN_CLIPPED,
    "unconditional": UNCONDITIONAL,
    "wav2pix": WAV2PIX,
    "identity": IDENTITY,
}
GROWING = ("house", "t2f", "both")


def config(recipe: str, shards: Path, run: Path, *overrides: str, batch_size: int = 8) -> Config:
    """Two stages, 4 and 8 pixels (or 8 alone), in float64 unless overridden; 6 + 10 steps of 8 images."""
    grows = recipe in GROWING
    first, fade = (4, 48) if grows else (8, 0)
    mapping = RECIPES[recipe] | {
        "run": str(run),
        "stages": [
            {"resolution": first, "stable_images": 48, "batch_size": batch_size},
            {"resolution": 8, "fade_images": fade, "stable_images": 80 - fade, "batch_size": batch_size},
        ],
        "train": {"precision": "fp64"},
        "wandb": {"mode": "disabled"},
        "log": {
            "every_images": 40, "grid_every_images": 80, "grid_rows": 3, "grid_images": 2, "held_out_images": 8,
        },
        "snapshot": {"every_images": 64},
        "checkpoint": {"every_images": 40},
    }  # fmt: skip
    return resolve(Config, mapping, [f"data.shards={shards}", *overrides])
