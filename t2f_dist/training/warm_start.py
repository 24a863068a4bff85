"""Weights to begin with: of another run, or of a snapshot that somebody gave."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from t2f_dist.config.schema import Config
from t2f_dist.models import snapshot
from t2f_dist.training import checkpoint
from t2f_dist.training.gan import Gan

PREFIX = "networks.discriminator."


def warm_start(gan: Gan, config: Config) -> None:
    """Fill the networks that `config.warm_start` names. All ranks call; each reads the files itself.

    Raises FileNotFoundError, or ValueError where the weights are of other shapes or damaged.
    """
    if config.warm_start.generator is not None:
        weights = snapshot.load(config.warm_start.generator).generator.state_dict()
        for network in (gan.networks.generator, gan.generator_ema):
            _fill(network, weights, f"warm_start.generator {config.warm_start.generator}")
    if config.warm_start.discriminator is not None:
        weights = _discriminator(Path(config.warm_start.discriminator))
        _fill(gan.networks.discriminator, weights, f"warm_start.discriminator {config.warm_start.discriminator}")


def _discriminator(path: Path) -> dict[str, Tensor]:
    kept = checkpoint.found(path / "checkpoints")
    folder = kept[0] if kept else path
    try:
        checkpoint.read_state(folder)
        tensors = safetensors.torch.load_file(folder / "networks.safetensors")
    except checkpoint.DamagedCheckpoint as error:
        raise ValueError(
            f"warm_start.discriminator {path} is neither a run with a checkpoint nor a checkpoint, or it is damaged:"
            f" {error} (a snapshot will not do, it holds the generator alone)"
        ) from None
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}


@torch.no_grad()
def _fill(network: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    own = network.state_dict()
    for name in [*own, *weights]:
        ours, theirs = own.get(name), weights.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [list(each.shape) if each is not None else "missing" for each in (theirs, ours)]
            raise ValueError(
                f"{what} is of another shape: {name} is {shapes[0]} there and {shapes[1]} here; give the networks and"
                " the condition the sizes with which it was trained, and the same vocabulary"
            )
    for name, tensor in own.items():
        tensor.copy_(weights[name])
