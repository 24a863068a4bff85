import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from t2f_dist.config.condition import Condition, Waveform
from t2f_dist.config.load import read_yaml, resolve
from t2f_dist.config.schema import Config
from t2f_dist.models.batch_norm import GroupBatchNorm
from t2f_dist.models.facts import Facts
from t2f_dist.models.networks import ConditionalGenerator, Networks, begin_step, build
from t2f_dist.models.spectral_norm import SpectralNorm
from t2f_dist.training.precision import Precision
from t2f_dist.training.side import Side
from tests.training.small import GROWING, RECIPES, config

HERE = Path("nowhere")
FACTS = Facts(num_words=9, embedding_size=5, sample_rate_hz=16_000, num_identities=3)
SIDES = ("generator", "discriminator")


def networks_of(recipe: str, *overrides: str) -> Networks:
    return build(config(recipe, HERE, HERE, *overrides), FACTS)


@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_are_a_function_of_the_seed_and_the_global_generator_is_left_alone(recipe: str):
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    first = networks_of(recipe).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(12)
    torch.rand(5)
    second = networks_of(recipe).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = networks_of(recipe, "seed=1").state_dict()
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert {name for name in first if name.endswith("weight")} <= changed


def test_where_and_how_a_run_takes_place_does_not_change_its_first_weights():
    plain = networks_of("house").state_dict()
    moved = build(config("house", Path("else"), Path("where"), "log.every_images=8", "data.num_workers=3"), FACTS)
    assert all(torch.equal(plain[name], weights) for name, weights in moved.state_dict().items())


@pytest.mark.parametrize(("precision", "dtype"), [("fp64", torch.float64), ("fp32", torch.float32),
                                                  ("bf16", torch.float32)])  # fmt: skip
def test_weights_are_float32_in_every_mixed_mode(precision: str, dtype: torch.dtype):
    networks = networks_of("house", f"train.precision={precision}")
    assert {parameter.dtype for parameter in networks.parameters()} == {dtype}


def parameters(layers: list[torch.nn.Module]) -> list[int]:
    return [id(parameter) for layer in layers for parameter in layer.parameters()]


@pytest.mark.parametrize("trained_by", SIDES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_sides_share_no_layer_and_leave_none_out_at_the_last_fade(recipe: str, trained_by: str):
    networks = networks_of(recipe, f"condition.trained_by={trained_by}")
    sides = {side: parameters(networks.active(side, 8, recipe in GROWING)) for side in SIDES}
    both = [number for side in sides.values() for number in side]
    assert len(set(both)) == len(both), "no parameter stands twice"
    assert set(both) == set(parameters([networks]))
    assert set(parameters([networks.generator.encoder])) <= set(sides[trained_by])


@pytest.mark.parametrize("trained_by", SIDES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_parameter_is_held_by_exactly_one_optimizer(recipe: str, trained_by: str):
    settings = config(recipe, HERE, HERE, f"condition.trained_by={trained_by}")
    networks = build(settings, FACTS)
    held: list[int] = []
    for name in SIDES:
        side = Side(name, networks, settings, Precision("fp64", torch.device("cpu")), 1)
        own = [id(parameter) for group in side.optimizer.param_groups for parameter in group["params"]]
        for resolution, fading in ((4, False), (8, True), (8, False)) if recipe in GROWING else ((8, False),):
            assert set(parameters(networks.active(name, resolution, fading))) <= set(own)
        held += own
    assert len(set(held)) == len(held)
    assert set(held) == set(parameters([networks]))


def test_heads_exist_only_where_their_terms_are_on_and_learn_from_one_side():
    plain = networks_of("t2f")
    assert (plain.contrastive, plain.queue, plain.condition_identity, plain.image_identity) == (None,) * 4
    both, faces, voices = networks_of("both"), networks_of("dcgan"), networks_of("wav2pix")
    assert both.queue is not None and both.queue.vectors.shape == (12, 6)
    assert networks_of("house").queue is None
    for networks, head, side in (
        (both, both.contrastive, "discriminator"),
        (faces, faces.image_identity, "discriminator"),
        (voices, voices.condition_identity, "generator"),  # with the encoder, whom it teaches
    ):
        assert head is not None
        resolution = 8
        for name in SIDES:
            assert (head in networks.active(name, resolution, False)) == (name == side)
    assert faces.image_identity is not None and faces.image_identity.out.out_features == FACTS.num_identities


def test_a_drawing_is_the_generator_on_the_augmented_embedding():
    generator: ConditionalGenerator = networks_of("house").generator
    random = torch.Generator().manual_seed(0)
    embedding, noise, z = (torch.randn(3, n, generator=random, dtype=torch.float64) for n in (8, 4, 6))
    keys = torch.arange(3)
    (images,), mean, log_variance = generator(embedding, noise, z, keys, 8, 0.25)
    condition = mean + noise * log_variance.mul(0.5).exp()
    torch.testing.assert_close(images, generator.synthesis(condition, z, 8, 0.25, keys)[0])
    silent = copy.deepcopy(generator)
    torch.nn.init.zeros_(silent.conditioning.layer.weight)
    drawings = [silent(rows, noise, z, keys, 8, 1.0)[0][0] for rows in (embedding, embedding.flip(0))]
    assert torch.equal(*drawings)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_network_draws_and_judges_the_same_sizes(recipe: str):
    networks = networks_of(recipe)
    settings = config(recipe, HERE, HERE)
    size = networks.generator.encoder.output_size
    random = torch.Generator().manual_seed(0)
    embedding, noise, z = (
        torch.randn(4, n, generator=random, dtype=torch.float64)
        for n in (size, settings.noise_size, settings.generator.z_size)
    )
    images, mean, log_variance = networks.generator(embedding, noise, z, torch.arange(4), 8, 1.0)
    assert images[-1].shape == (4, 3, 8, 8)
    assert mean.shape == log_variance.shape == (4, networks.generator.conditioning.size)
    views = networks.discriminator.views(images[-1])
    assert [view.shape for view in views] == [image.shape for image in images]
    features = networks.discriminator.features(images, 8, 1.0)
    assert features.shape[:2] == (4, networks.discriminator.feature_size)
    assert networks.discriminator.logits(features, embedding).shape == (4,)


def test_a_step_begins_with_one_power_iteration_and_a_new_count():
    networks = networks_of("dcgan", "generator.spectral_norm=true")
    generator = networks.generator
    draw = (torch.zeros(4, 8), torch.zeros(4, 0), torch.zeros(4, 6), torch.arange(4), 8, 1.0)
    generator(*(value.double() if torch.is_tensor(value) and value.is_floating_point() else value for value in draw))
    layers = [module for module in generator.modules() if isinstance(module, SpectralNorm)]
    norms = networks.batch_norms
    assert layers and norms
    assert all(norm.statistics() is not None for norm in norms)
    expected = copy.deepcopy(layers)
    with torch.no_grad():
        for layer, twin in zip(layers, expected, strict=True):
            for each in (layer, twin):
                each.weight.add_(torch.arange(each.weight.numel()).view_as(each.weight) % 3)
            twin.iterate()
    begin_step(generator)
    for layer, twin in zip(layers, expected, strict=True):
        assert torch.equal(layer.u, twin.u) and torch.equal(layer.v, twin.v)
    assert all(norm.statistics() is None for norm in norms)
    assert not [module for module in networks.discriminator.modules() if module in norms], "of the generator alone"
    assert {module for module in generator.modules() if isinstance(module, GroupBatchNorm)} == set(norms)


def conv(before: int, after: int, kernel: int, bias: bool = True) -> int:
    return before * after * kernel**2 + bias * after


def test_the_parameters_of_t2f_at_64_pixels_are_those_counted_by_hand():
    settings = resolve(Config, read_yaml(Path(__file__).parents[2] / "configs/t2f_lfw_64.yaml"))
    networks = build(settings, Facts(num_words=1000))
    lstm = sum(4 * 256 * (inputs + 256 + 2) for inputs in (128, 256, 256))
    encoder = 1000 * 128 + lstm + 256  # and the vector of who has no caption
    conditioning = 256 * 2 * 178 + 2 * 178
    stem = (256 * 16 * 256 + 16 * 256) + conv(256, 256, 3)
    blocks = 3 * 2 * conv(256, 256, 3) + conv(256, 128, 3) + conv(128, 128, 3)
    to_rgb = 4 * conv(256, 3, 1) + conv(128, 3, 1)
    assert sum(p.numel() for p in networks.generator.parameters()) == encoder + conditioning + stem + blocks + to_rgb
    from_rgb = 4 * conv(3, 256, 1) + conv(3, 128, 1)
    blocks = 3 * 2 * conv(256, 256, 3) + conv(128, 128, 3) + conv(128, 256, 3)
    final = conv(256 + 1, 256, 3)
    head = (256 * 128 + 128) + conv(256 + 128, 256, 1) + conv(256, 256, 4) + (256 + 1)
    assert sum(p.numel() for p in networks.discriminator.parameters()) == from_rgb + blocks + final + head


def test_the_parameters_of_wav2pix_at_64_pixels_are_those_counted_by_hand():
    """Its five convolutions down and up, 128 numbers of a second of speech at 16 kHz (1903.10195, section 3)."""
    channels = [512, 256, 128, 64]
    network = {"kind": "dcgan", "channels": channels, "spectral_norm": True}
    settings = config("wav2pix", HERE, HERE).model_dump(mode="json") | {
        "condition": Condition(speech=Waveform()).model_dump(mode="json") | {"trained_by": "generator"},
        "generator": network | {"z_size": 0, "dropout": 0.5},
        "discriminator": network | {"head_size": None},
        "stages": [{"resolution": 64, "stable_images": 8, "batch_size": 8}],
    }
    networks = build(resolve(Config, settings), Facts(sample_rate_hz=16_000, num_identities=10))
    widths = (1, 16, 32, 128, 256, 512, 1024)
    voice = sum(15 * a * b + 2 * b for a, b in pairwise(widths))  # a normalisation in the place of a bias
    voice += (1024 * 4 * 256 + 256) + (256 * 128 + 128) + (128 * 128 + 128)
    drawer = conv(128, 512, 4) + conv(512, 256, 4) + conv(256, 128, 4) + conv(128, 64, 4) + conv(64, 3, 4)
    assert sum(p.numel() for p in networks.generator.parameters()) == voice + 128 + drawer
    judge = conv(3, 64, 4) + conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 512, 4) + conv(512 + 128, 1, 4)
    assert sum(p.numel() for p in networks.discriminator.parameters()) == judge
    assert networks.condition_identity is not None
    who = 128 * 200 + 2 * 200 + 200 * 10 + 10
    assert sum(p.numel() for p in networks.condition_identity.parameters()) == who


def test_the_parameters_of_speech2face_at_64_pixels_are_those_counted_by_hand():
    """Of 62 identities, as in its corpus."""
    settings = resolve(Config, read_yaml(Path(__file__).parents[2] / "configs/speech2face_64.yaml"))
    networks = build(settings, Facts(num_identities=62))
    conditioning = 62 * 128 + 2 * 128
    drawer = conv(228, 512, 4) + conv(512, 256, 4) + conv(256, 128, 4) + conv(128, 64, 4) + conv(64, 3, 4)
    assert sum(p.numel() for p in networks.generator.parameters()) == 62 + conditioning + drawer
    judge = conv(3, 64, 4) + conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 512, 4)
    head = (62 * 128 + 128) + conv(512 + 128, 1, 4)
    assert sum(p.numel() for p in networks.discriminator.parameters()) == judge + head
