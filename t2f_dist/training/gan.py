"""Everything that a training step changes: networks, their moving average, two sides with their optimizers."""

from __future__ import annotations

import copy

import torch
import torch.distributed
from torch import Tensor

from t2f_dist.config.loss import Ada
from t2f_dist.config.schema import Config
from t2f_dist.models.facts import Facts
from t2f_dist.models.networks import begin_step, build
from t2f_dist.training import ema
from t2f_dist.training.ada import AdaptiveProbability
from t2f_dist.training.growth import Phase
from t2f_dist.training.precision import Precision
from t2f_dist.training.side import Side


class Gan:
    """The game of one run on one device.

    Args:
        config: of the run.
        facts: of its shards.
        device: of this rank.
        world_size: ranks that exchange gradients; with more than one, a process group is up.
    """

    def __init__(self, config: Config, facts: Facts, device: torch.device, world_size: int):
        self.config = config
        self.facts = facts
        self.device = device
        self.world_size = world_size
        self.precision = Precision(config.train.precision, device)
        self.networks = build(config, facts).to(device)
        if config.train.channels_last:
            self.networks.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.generator_ema = copy.deepcopy(self.networks.generator).requires_grad_(False).eval()
        for module in self.generator_ema.modules():
            if isinstance(module, torch.nn.RNNBase):
                module.flatten_parameters()  # a copy on a GPU is no longer one block
        self.ada = AdaptiveProbability(config.augment).to(device) if isinstance(config.augment, Ada) else None
        self.generator_side = Side("generator", self.networks, config, self.precision, world_size)
        self.discriminator_side = Side("discriminator", self.networks, config, self.precision, world_size)
        self.suspects: dict[str, Tensor] = {}  # of the last step, [N] of this rank's share: see `Part.suspect`
        self._activated: tuple[int, bool] | None = None

    def enter(self, phase: Phase) -> bool:
        """Activate the layers of a phase where they differ from the present ones; whether they did. All ranks call."""
        wanted = (phase.resolution, phase.fading)
        if wanted == self._activated:
            return False
        self.generator_side.activate(*wanted)
        self.discriminator_side.activate(*wanted)
        self._activated = wanted
        return True

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.generator_side, self.discriminator_side

    def weights(self) -> dict[str, Tensor]:
        """By name, without a graph: networks with their buffers, moving average, adaptive augmentation."""
        live = {f"networks.{name}": tensor for name, tensor in self.networks.state_dict().items()}
        average = {f"generator_ema.{name}": tensor for name, tensor in self.generator_ema.state_dict().items()}
        adaptive = self.ada.state_dict() if self.ada is not None else {}
        return live | average | {f"augment.{name}": tensor for name, tensor in adaptive.items()}

    def moments(self) -> dict[str, Tensor]:
        """Adam's state, by the name of its parameter and a key; parameters of blocks not yet grown have none."""
        names = {id(parameter): name for name, parameter in self.networks.named_parameters()}
        return {
            f"{names[id(parameter)]}/{key}": value.detach()
            for side in self.sides
            for parameter, state in side.optimizer.state.items()
            for key, value in state.items()
        }

    def describe(self) -> str:
        """What the present phase trains and exchanges."""
        counts = ", ".join(f"{side.name} {sum(p.numel() for p in side.parameters):,}" for side in self.sides)
        exchanged = sum(side.exchanged_bytes for side in self.sides)
        return f"{counts} parameters; {exchanged / 1e6:.2f} MB of gradients a step"

    def summed(self, value: Tensor) -> Tensor:
        """The sum over all ranks; all call."""
        if self.world_size > 1:
            torch.distributed.all_reduce(value)
        return value

    def gathered(self, rows: Tensor) -> Tensor:
        """[N, ...] of each rank -> [W N, ...] of the global batch, in the order of positions; all ranks call."""
        if self.world_size == 1:
            return rows
        rows = rows.contiguous()
        everyone = rows.new_empty(self.world_size * len(rows), *rows.shape[1:])
        torch.distributed.all_gather_into_tensor(everyone, rows)
        return everyone

    @torch.no_grad()
    def update_statistics(self) -> None:
        """Move the running statistics of the generator's batch normalisations, over all ranks' groups; all call.

        After the discriminator's step: where that was left out, what it was shown moves nothing.
        """
        norms = self.networks.batch_norms
        remembered = [norm.statistics() for norm in norms]
        flat = [statistics.flatten() for statistics in remembered if statistics is not None]
        if not flat:
            return
        mean = self.summed(torch.cat(flat)) / self.world_size
        for norm, statistics in zip(norms, remembered, strict=True):
            if statistics is not None:
                norm.update(mean[: statistics.numel()].view_as(statistics), self.discriminator_side.bad)
                mean = mean[statistics.numel() :]

    def update_ema(self, images_seen: int, batch_size: int) -> None:
        ema.update(self.generator_ema, self.networks.generator, ema.decay(self.config.ema, images_seen, batch_size))
        begin_step(self.generator_ema)

    def release(self) -> None:
        self.generator_side.release()
        self.discriminator_side.release()
        self._activated = None
