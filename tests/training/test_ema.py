import torch
from torch import nn

from t2f_dist.config import schema
from t2f_dist.training import ema


def test_after_a_half_life_the_old_weights_count_half_whatever_the_batch_size():
    settings = schema.Ema(half_life_images=240, ramp_fraction=None)
    for batch_size in (8, 48, 240):
        average, source = nn.Linear(3, 2), nn.Linear(3, 2)
        old, new = average.weight.detach().clone(), source.weight.detach()
        for images in range(0, 240, batch_size):
            ema.update(average, source, ema.decay(settings, images, batch_size))
        torch.testing.assert_close(average.weight.detach(), (old + new) / 2)


def test_early_on_the_half_life_is_a_share_of_the_images_shown():
    settings = schema.Ema(half_life_images=10_000, ramp_fraction=0.1)
    assert abs(ema.decay(settings, 0, 10) - 0.5**10) < 1e-12
    assert abs(ema.decay(settings, 990, 10) - 0.5**0.1) < 1e-12
    assert abs(ema.decay(settings, 10**7, 10) - 0.5 ** (10 / 10_000)) < 1e-12
