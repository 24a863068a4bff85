"""Everything that a training step changes: networks, their moving average, two sides with their optimizers."""

from __future__ import annotations

import copy

import torch

from t2f_dist.config.schema import Config
from t2f_dist.models.networks import build
from t2f_dist.training import ema
from t2f_dist.training.growth import Phase
from t2f_dist.training.precision import Precision
from t2f_dist.training.side import Side


class Gan:
    """The game of one run on one device.

    Args:
        config: of the run.
        num_words: size of the vocabulary.
        device: of this rank.
        world_size: ranks that exchange gradients; with more than one, a process group is up.
    """

    def __init__(self, config: Config, num_words: int, device: torch.device, world_size: int):
        self.config = config
        self.device = device
        self.precision = Precision(config.train.precision, device)
        self.networks = build(config, num_words).to(device)
        if config.train.channels_last:
            self.networks.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.generator_ema = copy.deepcopy(self.networks.generator).requires_grad_(False).eval()
        self.generator_ema.text_encoder.lstm.flatten_parameters()  # a copy on a GPU is no longer one block
        self.generator_side = Side("generator", self.networks, config, self.precision, world_size)
        self.discriminator_side = Side("discriminator", self.networks, config, self.precision, world_size)
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

    def describe(self) -> str:
        """What the present phase trains and exchanges."""
        sides = (self.generator_side, self.discriminator_side)
        counts = ", ".join(f"{side.name} {sum(p.numel() for p in side.parameters):,}" for side in sides)
        exchanged = sum(side.exchanged_bytes for side in sides)
        return f"{counts} parameters; {exchanged / 1e6:.2f} MB of gradients a step"

    def update_ema(self, images_seen: int, batch_size: int) -> None:
        ema.update(self.generator_ema, self.networks.generator, ema.decay(self.config.ema, images_seen, batch_size))

    def release(self) -> None:
        self.generator_side.release()
        self.discriminator_side.release()
        self._activated = None
