"""Checkpoints: all that a run needs to go on as if it had never stopped, taken from a Gan and put back into one.

Where they stand, and which of them are whole, is the archive's. The random state is not in them: everything random is
a function of the seed and `images_seen`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from t2f_dist.training.checkpoints.packed import Packed
from t2f_dist.training.checkpoints.stored import NETWORKS, OPTIMIZERS, DamagedCheckpoint, Stored, check_header
from t2f_dist.training.gan import Gan
from t2f_dist.training.side import Side


@dataclass(frozen=True)
class State:
    """What is no tensor."""

    images_seen: int
    dataset: str  # fingerprint of the shards
    config: dict[str, Any]


class Copy:
    """The memory for one checkpoint, filled again and again.

    Attributes:
        images_seen: of the moment that was copied.
        body: what is no tensor, for state.json.
    """

    def __init__(self) -> None:
        self.images_seen = 0
        self.body: dict[str, Any] = {}
        self._files = {NETWORKS: Packed(), OPTIMIZERS: Packed()}

    def take(self, gan: Gan, state: State) -> None:
        """Copy all of this moment; training may go on when it returns."""
        for name, part in tensors(gan).items():
            self._files[name].fill(part)
        scalers = {side.name: side.scaler.state_dict() for side in (gan.generator_side, gan.discriminator_side)}
        self.images_seen = state.images_seen
        self.body = {"scalers": scalers, **asdict(state)}
        if gan.device.type == "cuda":
            torch.cuda.synchronize(gan.device)

    @property
    def files(self) -> dict[str, memoryview]:
        """Name -> content; it changes when the next moment is taken."""
        return {name: packed.content for name, packed in self._files.items()}


def tensors(gan: Gan) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file, by their names; not copied."""
    return {NETWORKS: gan.weights(), OPTIMIZERS: gan.moments()}


def check_finite(gan: Gan, images_seen: int) -> None:
    """Raise ValueError where a weight is not finite: such a checkpoint would push out those to go back to.

    Weights are equal on all ranks, so that all raise together.
    """
    for name, tensor in gan.weights().items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{name} is not finite at {images_seen:,} images, so no checkpoint is written: start anew in another"
                " folder (--run) with lower learning rates"
            )


def fill(gan: Gan, stored: Stored, place: str) -> State:
    """Fill `gan` from a checkpoint that was read at `place`. Every rank calls.

    Raises ValueError where the networks are of other shapes, or the checkpoint is of no run.
    """
    try:
        weights, moments = (read_tensors(stored, file) for file in (NETWORKS, OPTIMIZERS))
    except DamagedCheckpoint as error:
        raise ValueError(f"checkpoint {place} is damaged: {error}") from None
    _fill(gan.weights(), weights, place)
    for side in (gan.generator_side, gan.discriminator_side):
        try:
            _fill_optimizer(side, gan, moments)
            side.scaler.load_state_dict(stored.body["scalers"][side.name])
        except (KeyError, RuntimeError, TypeError) as error:  # a scaler that is none, moments of other parameters
            reason = " ".join(str(error).split())
            raise ValueError(
                f"checkpoint {place} does not hold the state of the {side.name}'s optimizer ({reason:.200}): use the"
                " configuration that wrote it, or another --run folder"
            ) from None
    return state_of(stored)


def read_tensors(stored: Stored, file: str) -> dict[str, Tensor]:
    """One of its files. Raises DamagedCheckpoint where it holds no tensors."""
    check_header(stored.files[file], file)
    try:
        return safetensors.torch.load(stored.files[file])
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DamagedCheckpoint(f"{file} holds no tensors ({' '.join(str(error).split()):.200})") from None


def state_of(stored: Stored) -> State:
    return State(**{name: stored.body[name] for name in State.__dataclass_fields__})


def _named_parameters(side: Side, gan: Gan) -> dict[str, torch.nn.Parameter]:
    own = {id(parameter) for group in side.optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in gan.networks.named_parameters() if id(parameter) in own}


def _fill_optimizer(side: Side, gan: Gan, stored: dict[str, Tensor]) -> None:
    side.optimizer.state.clear()
    for name, parameter in _named_parameters(side, gan).items():
        keys = ("step", "exp_avg", "exp_avg_sq")
        if f"{name}/step" in stored:
            state = {key: stored[f"{name}/{key}"] for key in keys}
            if state["step"].numel() != 1 or any(state[key].shape != parameter.shape for key in keys[1:]):
                raise RuntimeError(f"{name} is of another shape")
            # Adam's fused kernel keeps `step` on the device, and moments in the memory layout of the parameter.
            moments = {key: torch.empty_like(parameter).copy_(state[key]) for key in keys[1:]}
            side.optimizer.state[parameter] = {"step": state["step"].to(parameter.device), **moments}


@torch.no_grad()
def _fill(targets: dict[str, Tensor], stored: dict[str, Tensor], place: str) -> None:
    wrong = [
        name
        for name in sorted(targets.keys() | stored.keys())
        if name not in targets or name not in stored or targets[name].shape != stored[name].shape
    ]
    if wrong:
        raise ValueError(
            f"checkpoint {place} is of other networks ({wrong[0]} and {len(wrong) - 1} more differ):"
            " use the configuration that wrote it, or another --run folder"
        )
    for name, tensor in targets.items():
        tensor.copy_(stored[name])
