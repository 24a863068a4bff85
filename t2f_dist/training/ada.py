"""How often the discriminator's images are augmented: as much as keeps it from learning its few reals by heart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2f_dist.config.loss import Ada
from t2f_dist.training.growth import due


class AdaptiveProbability(nn.Module):
    """The augmentation probability of ADA (Karras et al. 2020, 2006.06676, section 3.1), the same on all ranks.

    The sign of the discriminator's score of a real is 1 where it knows it for real. Its mean over the images since the
    last adjustment is compared with a target, and the probability moves a little towards or away from 1. Sums of signs
    are whole numbers, so that every number of ranks comes to the same probability, bit for bit.
    """

    probability: Tensor  # float64
    sign_sum: Tensor  # float64, since the last adjustment
    num_signs: Tensor  # int64

    def __init__(self, config: Ada):
        super().__init__()
        self.config = config
        self.register_buffer("probability", torch.tensor(config.initial_probability, dtype=torch.float64))
        self.register_buffer("sign_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("num_signs", torch.zeros((), dtype=torch.int64))

    def see(self, sign_sum: Tensor, batch_size: int, images_seen: int, bad: Tensor | None = None) -> None:
        """The sum of signs over a step's global batch, the same on all ranks; `images_seen` before the step.

        bad: bool, the signs do not count.
        """
        config = self.config
        num_signs = torch.full_like(self.num_signs, batch_size)
        if bad is not None:
            sign_sum, num_signs = (value.masked_fill(bad, 0) for value in (sign_sum, num_signs))
        self.sign_sum += sign_sum
        self.num_signs += num_signs
        if due(config.every_images, images_seen, batch_size):
            mean = self.sign_sum / self.num_signs.clamp(min=1)
            step = torch.sign(mean - config.target) * self.num_signs / config.images_to_one
            self.probability.copy_((self.probability + step).clamp(0, config.max_probability))
            self.sign_sum.zero_()
            self.num_signs.zero_()
