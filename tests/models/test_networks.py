import copy
from pathlib import Path

import pytest
import torch

from t2f_dist.models.networks import ConditionalGenerator, build
from tests.training.small import config

HERE = Path("nowhere")


@pytest.mark.parametrize("recipe", ["house", "t2f"])
def test_weights_are_a_function_of_the_seed_and_the_global_generator_is_left_alone(recipe: str):
    settings = config(recipe, HERE, HERE)
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    first = build(settings, 9).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(12)
    torch.rand(5)
    second = build(settings, 9).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build(config(recipe, HERE, HERE, "seed=1"), 9).state_dict()
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert {name for name in first if name.endswith("weight")} <= changed


def test_where_and_how_a_run_takes_place_does_not_change_its_first_weights():
    plain = build(config("house", HERE, HERE), 9).state_dict()
    moved = build(config("house", Path("else"), Path("where"), "log.every_images=8", "data.num_workers=3"), 9)
    assert all(torch.equal(plain[name], weights) for name, weights in moved.state_dict().items())


@pytest.mark.parametrize(("precision", "dtype"), [("fp64", torch.float64), ("fp32", torch.float32),
                                                  ("bf16", torch.float32)])  # fmt: skip
def test_weights_are_float32_in_every_mixed_mode(precision: str, dtype: torch.dtype):
    networks = build(config("house", HERE, HERE, f"train.precision={precision}"), 9)
    assert {parameter.dtype for parameter in networks.parameters()} == {dtype}


@pytest.mark.parametrize("recipe", ["house", "t2f"])
def test_the_sides_share_no_layer_and_leave_none_out_at_the_last_fade(recipe: str):
    networks = build(config(recipe, HERE, HERE), 9)
    sides = [
        {id(p) for layer in networks.active(side, 8, True) for p in layer.parameters()}
        for side in ("generator", "discriminator")
    ]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {id(p) for p in networks.parameters()}
    encoder = {id(p) for p in networks.generator.text_encoder.parameters()}
    assert encoder <= sides[0 if recipe == "t2f" else 1], "the encoder learns from the side that the recipe names"


def test_the_contrastive_head_exists_only_where_its_term_is_on():
    assert build(config("t2f", HERE, HERE), 9).contrastive is None
    networks = build(config("house", HERE, HERE), 9)
    head = networks.contrastive
    assert head is not None
    assert head in networks.active("discriminator", 4, False)
    assert head not in networks.active("generator", 4, False)


def test_a_drawing_is_the_generator_on_the_augmented_embedding():
    settings = config("house", HERE, HERE)
    generator: ConditionalGenerator = build(settings, 9).generator
    random = torch.Generator().manual_seed(0)
    embedding, noise, z = (torch.randn(3, n, generator=random, dtype=torch.float64) for n in (8, 4, 6))
    images, mean, log_variance = generator(embedding, noise, z, 8, 0.25)
    condition = mean + noise * log_variance.mul(0.5).exp()
    torch.testing.assert_close(images, generator.synthesis(condition, z, 8, 0.25))
    silent = copy.deepcopy(generator)
    torch.nn.init.zeros_(silent.conditioning.layer.weight)
    assert torch.equal(silent(embedding, noise, z, 8, 1.0)[0], silent(embedding.flip(0), noise, z, 8, 1.0)[0])
