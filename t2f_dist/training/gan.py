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
        self.drawer_ema = copy.deepcopy(self.networks.drawer).requires_grad_(False).eval()
        self.generator = Side("generator", self.networks, config, self.precision, world_size)
        self.discriminator = Side("discriminator", self.networks, config, self.precision, world_size)
        self._activated: tuple[int, bool] | None = None

    def enter(self, phase: Phase) -> bool:
        """Activate the layers of a phase where they differ from the present ones; whether they did. All ranks call."""
        wanted = (phase.resolution, phase.fading)
        if wanted == self._activated:
            return False
        self.generator.activate(*wanted)
        self.discriminator.activate(*wanted)
        self._activated = wanted
        return True

    def update_ema(self, images_seen: int, batch_size: int) -> None:
        ema.update(self.drawer_ema, self.networks.drawer, ema.decay(self.config.ema, images_seen, batch_size))

    def release(self) -> None:
        self.generator.release()
        self.discriminator.release()
        self._activated = None
