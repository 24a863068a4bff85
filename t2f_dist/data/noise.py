"""All that is drawn for positions and not of a sample: noise of the generator, of penalties, of augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t2f_dist.config.loss import AUGMENT_DRAWS
from t2f_dist.data.positions import Stream, draw


class Wishes(NamedTuple):
    """What is drawn; the rest stays empty or 0.

    Attributes:
        z_size, noise_size: lengths of the noise vectors, of the generator and of the conditioning.
        mixing, dropout, augment: draw what mixes reals and fakes for a penalty, what decides the generator's dropout,
            and the augmentation.
    """

    z_size: int = 0
    noise_size: int = 0
    mixing: bool = False
    dropout: bool = False
    augment: bool = False


NOTHING = Wishes()


class Noise(NamedTuple):
    """Of N positions."""

    z: np.ndarray  # float64 [N, Z] unit normal
    noise: np.ndarray  # float64 [N, S] unit normal, of the conditioning
    mixing: np.ndarray  # float64 [N] uniform in [0, 1)
    dropout_keys: np.ndarray  # int64 [N]
    augment: np.ndarray  # float32 [N, 3, K] uniform in [0, 1): for reals, for fakes, for those of the generator's step


def draw_noise(seed: int, positions: Sequence[int], wishes: Wishes) -> Noise:
    """A function of the seed and of each position alone."""
    num = len(positions)
    found = Noise(
        z=np.empty((num, wishes.z_size)),
        noise=np.empty((num, wishes.noise_size)),
        mixing=np.zeros(num),
        dropout_keys=np.zeros(num, dtype=np.int64),
        augment=np.empty((num, 3, AUGMENT_DRAWS if wishes.augment else 0), dtype=np.float32),
    )
    for row, position in enumerate(positions):
        if wishes.z_size:
            draw(seed, Stream.Z, position).standard_normal(out=found.z[row])
        if wishes.noise_size:
            draw(seed, Stream.CONDITION, position).standard_normal(out=found.noise[row])
        if wishes.mixing:
            found.mixing[row] = draw(seed, Stream.MIXING, position).random()
        if wishes.dropout:
            found.dropout_keys[row] = draw(seed, Stream.DROPOUT, position).integers(2**63)
        if wishes.augment:
            draw(seed, Stream.AUGMENT, position).random(dtype=np.float32, out=found.augment[row])
    return found
