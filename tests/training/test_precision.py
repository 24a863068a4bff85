import pytest
import torch

from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.corpus import facts
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from t2f_dist.training.precision import Precision
from t2f_dist.training.step import train_step
from tests.training.small import RECIPES, config


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match="fp16 needs a GPU.*use bf16"):
        Precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_in_bf16_only_convolutions_and_linear_layers_are_half(portrait_shards, tmp_path, recipe):
    """What stays float32: weights, gradients, moments, moving average, encoders, images, losses."""
    settings = config(recipe, portrait_shards, tmp_path, "train.precision=bf16", "train.channels_last=true")
    samples = open_samples(settings)
    gan = Gan(settings, facts(samples), torch.device("cpu"), 1)
    kinds: dict[str, set[torch.dtype]] = {}

    def note(name):
        def noted(module, inputs, output):
            if isinstance(output, torch.Tensor) and output.is_floating_point():
                kinds.setdefault(name, set()).add(output.dtype)

        return noted

    for name, module in gan.networks.named_modules():
        if name == "generator.encoder" or not (list(module.children()) or isinstance(module, torch.nn.Identity)):
            module.register_forward_hook(note(name))
    growth = Growth(settings.stages)
    metrics = {}
    for seen in (64, 72):  # one in which the generator learns, at least
        stream = batches(samples, growth.steps(seen), 0, 1, 0)
        metrics |= train_step(gan, next(stream), growth.at(seen), seen, 1)
    samples.close()
    assert "generator.encoder" in kinds and len(kinds) > 5
    for name, dtypes in kinds.items():
        expected = torch.float32 if name.startswith("generator.encoder") else torch.bfloat16
        assert dtypes == {expected}, name
    assert {name for name, value in metrics.items() if value.dtype != torch.float32} <= {
        "augment/probability",
        "augment/real_sign",
    }
    assert "generator/adversarial" in metrics
    state = [value for side in (gan.generator_side, gan.discriminator_side) for entry in side.optimizer.state.values()
             for value in entry.values()]  # fmt: skip
    for tensor in [*gan.networks.parameters(), *gan.generator_ema.parameters(), *state]:
        assert tensor.dtype == torch.float32
