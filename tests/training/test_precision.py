import pytest
import torch

from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from t2f_dist.training.precision import Precision
from t2f_dist.training.step import train_step
from tests.training.small import config


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match="fp16 needs a GPU.*use bf16"):
        Precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize("recipe", ["house", "t2f"])
def test_in_bf16_only_convolutions_and_linear_layers_are_half(portrait_shards, tmp_path, recipe):
    """What stays float32: weights, gradients, moments, moving average, text encoder, images, losses."""
    settings = config(recipe, portrait_shards, tmp_path, "train.precision=bf16", "train.channels_last=true")
    samples = open_samples(settings)
    gan = Gan(settings, len(samples.vocabulary), torch.device("cpu"), 1)
    kinds: dict[str, set[torch.dtype]] = {}

    def note(name):
        return lambda module, inputs, output: kinds.setdefault(name, set()).add(output.dtype)

    for name, module in gan.networks.named_modules():
        if not list(module.children()) or name == "generator.text_encoder":
            module.register_forward_hook(note(name)) if name != "generator.text_encoder.lstm" else None
    growth = Growth(settings.stages)
    stream = batches(samples, growth.steps(64), 0, 1, 0)
    metrics = train_step(gan, next(stream), growth.at(64), 64, 1)
    for name, dtypes in kinds.items():
        expected = torch.float32 if "text_encoder" in name else torch.bfloat16
        assert dtypes == {expected}, name
    assert all(value.dtype == torch.float32 for value in metrics.values())
    state = [value for side in (gan.generator_side, gan.discriminator_side) for entry in side.optimizer.state.values()
             for value in entry.values()]  # fmt: skip
    for tensor in [*gan.networks.parameters(), *gan.generator_ema.parameters(), *state]:
        assert tensor.dtype == torch.float32
