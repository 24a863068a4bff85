"""What only a GPU can show: every precision trains, stays finite, and goes on from a checkpoint."""

import pytest
import torch

from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.corpus import facts
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from t2f_dist.training.step import train_step
from tests.training.short_run import read_checkpoint, unequal, write_checkpoint
from tests.training.small import RECIPES, config


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_trains_on_a_gpu_and_goes_on(portrait_shards, tmp_path, recipe, precision):
    channels_last = f"train.channels_last={str(precision != 'fp32').lower()}"
    settings = config(recipe, portrait_shards, tmp_path, f"train.precision={precision}", channels_last)
    samples = open_samples(settings)
    growth = Growth(settings.stages)
    gan = Gan(settings, facts(samples), torch.device("cuda", 0), 1)
    before = {name: tensor.clone() for name, tensor in gan.networks.named_parameters()}
    for batch, (seen, size, _) in zip(
        batches(samples, growth.steps(0), 0, 1, 0, pin_memory=True), growth.steps(0), strict=True
    ):
        metrics = train_step(gan, batch, growth.at(seen), seen, 1)
        gan.update_ema(seen, size)
        assert all(bool(value.isfinite()) for value in metrics.values()), (seen, metrics)
    checkpoint.check_finite(gan, 128)
    moved = [name for name, tensor in gan.networks.named_parameters() if not torch.equal(tensor, before[name])]
    assert len(before) - len(moved) <= max(1, 0.1 * len(before))  # a bias that cancels out stands still
    path = write_checkpoint(tmp_path, gan, checkpoint.State(128, "abc", {}), keep=2)
    again = Gan(settings, facts(samples), torch.device("cuda", 0), 1)
    read_checkpoint(path, again)
    samples.close()
    assert unequal(gan.networks.state_dict(), again.networks.state_dict()) == []
