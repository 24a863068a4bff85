import pytest
import torch

from t2f_dist.config.condition import Projection
from t2f_dist.config.networks import Dcgan, DcganCritic, MinibatchDiscrimination
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.conditioning import CONDITIONINGS
from t2f_dist.models.dcgan import Discriminator, Generator
from t2f_dist.models.spectral_norm import SpectralNorm

CHANNELS = {64: (12, 8, 6, 4), 128: (14, 12, 8, 6, 4)}
BATCH_NORM = BatchNorm(group_size=2)
KEYS = torch.arange(100, 104)

GENERATORS = {
    "batch_norm": {"batch_norm": True},
    "wav2pix": {"spectral_norm": True, "dropout": 0.5, "z_size": 0},
    "elements": {"dropout": 0.5, "dropout_of": "elements"},
}
CROWD = MinibatchDiscrimination(num_kernels=3, kernel_size=2, group_size=2)
CRITICS = {
    "batch_norm": {"batch_norm": True, "head_size": 6},
    "spectral": {"spectral_norm": True, "head_size": 6},
    "as_it_is": {"head_size": None},
    "crowd": {"head_size": 6, "minibatch_discrimination": CROWD},
    "unconditional": {"head": "unconditional", "minibatch_discrimination": CROWD},
}


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator(resolution: int = 64, **options) -> Generator:
    torch.manual_seed(0)
    return Generator(Dcgan(**{"channels": CHANNELS[resolution], "z_size": 5, **options}), 3, BATCH_NORM).double()


def critic(resolution: int = 64, **options) -> Discriminator:
    torch.manual_seed(0)
    section = DcganCritic(channels=CHANNELS[resolution], **options)
    return Discriminator(section, 0 if section.head == "unconditional" else 7, BATCH_NORM).double()


def draw(network: Generator, num: int = 4) -> torch.Tensor:
    z_size = network.blocks[0].conv.in_channels - 3
    (images,) = network(noise(num, 3), noise(num, z_size, seed=2), network.resolution, 1.0, KEYS[:num])
    return images


def score(network: Discriminator, images: torch.Tensor, embedding: torch.Tensor | None = None) -> torch.Tensor:
    if embedding is None:
        embedding = noise(len(images), 7 if network.conditional else 0)
    features = network.features(network.views(images), network.resolution, 1.0)
    assert features.shape == (len(images), network.feature_size, 4, 4)
    return network.logits(features, embedding)


def check_gradients(network: torch.nn.Module, resolution: int) -> None:
    """Each parameter has one, that is not zero, and belongs to a layer said to be active."""
    active = {id(p) for layer in network.active(resolution, False) for p in layer.parameters()}
    for name, parameter in network.named_parameters():
        assert id(parameter) in active, name
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("options", GENERATORS.values(), ids=GENERATORS)
@pytest.mark.parametrize("resolution", [64, 128])
def test_the_generator_draws_in_range_and_learns_everywhere(resolution, options):
    network = generator(resolution, **options)
    images = draw(network)
    assert images.shape == (4, 3, resolution, resolution)
    assert images.abs().max() <= 1 and images.std() > 0
    (images * noise(*images.shape)).sum().backward()
    check_gradients(network, resolution)


@pytest.mark.parametrize("options", CRITICS.values(), ids=CRITICS)
@pytest.mark.parametrize("resolution", [64, 128])
def test_the_critic_scores_each_image_and_learns_everywhere(resolution, options):
    network = critic(resolution, **options)
    logits = score(network, noise(4, 3, resolution, resolution))
    assert logits.shape == (4,)
    (logits * noise(4)).sum().backward()
    check_gradients(network, resolution)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_published_networks_have_the_parameters_that_their_layers_add_up_to():
    """64 pixels, embedding 1024 projected to 128, z 100: no biases but those of the normalisations."""
    channels, norm = (512, 256, 128, 64), BatchNorm()
    projection = CONDITIONINGS[Projection](Projection(size=128), 1024, norm)
    assert count(projection) == 1024 * 128 + 2 * 128
    network = Generator(Dcgan(channels=channels, z_size=100, batch_norm=True), 128, norm)
    convs = 16 * (228 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 3)
    assert count(network) == convs + 2 * (512 + 256 + 128 + 64) == 4_625_280
    judge = Discriminator(DcganCritic(channels=channels, batch_norm=True), 1024, norm)
    convs = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 640 * 1)
    assert count(judge) == convs + 2 * (128 + 256 + 512) + (1024 * 128 + 2 * 128) == 2_898_944


def test_weights_begin_as_published():
    convs = [m for m in generator(channels=(64, 64, 64, 64)).modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert len(convs) == 5
    for conv in convs:
        assert 0.018 < conv.weight.std() < 0.022 and not conv.bias.any()


def test_spectral_normalisation_is_in_every_layer_with_weights():
    for network in (generator(spectral_norm=True), critic(spectral_norm=True)):
        kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear)
        weighted = [m for m in network.modules() if isinstance(m, kinds)]
        assert weighted and all(isinstance(m, SpectralNorm) for m in weighted)


@pytest.mark.parametrize("options", GENERATORS.values(), ids=GENERATORS)
def test_a_share_of_whole_groups_is_drawn_as_in_the_whole(options):
    network, half = generator(**options), generator(**options)
    z = noise(4, network.blocks[0].conv.in_channels - 3)
    whole = network(noise(4, 3), z, 64, 1.0, KEYS)[0]
    parts = [half(c, some, 64, 1.0, k)[0] for c, some, k in zip(noise(4, 3).split(2), z.split(2), KEYS.split(2))]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_dropout_follows_the_key_and_ends_in_evaluation():
    network = generator(dropout=0.5)
    condition, z = noise(1, 3).expand(2, -1), noise(1, 5).expand(2, -1)
    same, other = KEYS[:1].expand(2), KEYS[:2]
    first, second = network(condition, z, 64, 1.0, same)[0]
    assert torch.equal(first, second)
    first, second = network(condition, z, 64, 1.0, other)[0]
    assert not torch.equal(first, second)
    first, second = network.eval()(condition, z, 64, 1.0, other)[0]
    assert torch.equal(first, second)
    assert len({block.dropout.layer for block in network.blocks}) == len(network.blocks)


@pytest.mark.parametrize("options", CRITICS.values(), ids=CRITICS)
def test_a_logit_depends_on_its_group_alone(options):
    network, images = critic(**options), noise(4, 3, 64, 64)
    whole = score(network, images)
    changed = images.clone()
    changed[2:] += noise(2, 3, 64, 64, seed=5)
    again = score(network, changed)
    torch.testing.assert_close(again[:2], whole[:2])
    assert not torch.isclose(again[2:], whole[2:]).any()


@pytest.mark.parametrize("name", ["batch_norm", "spectral", "as_it_is", "crowd"])
def test_the_embedding_counts(name):
    network, images = critic(**CRITICS[name]), noise(4, 3, 64, 64)
    assert not torch.isclose(score(network, images), score(network, images, noise(4, 7, seed=6))).any()


@pytest.mark.parametrize("name", ["spectral", "as_it_is", "crowd", "unconditional"])
def test_a_gradient_penalty_reaches_the_weights(name):
    network = critic(**CRITICS[name])
    images = noise(4, 3, 64, 64).requires_grad_()
    (gradient,) = torch.autograd.grad(score(network, images).sum(), images, create_graph=True)
    gradient.square().sum().backward()
    assert all(conv.weight.grad.abs().max() > 0 for conv in [*network.convs, network.score])
    # by finite differences, along one direction of the first weights
    weight, step = network.convs[0].weight, noise(*network.convs[0].weight.shape)

    def penalty(distance: float) -> torch.Tensor:
        with torch.no_grad():
            weight.add_(distance * step)
        (found,) = torch.autograd.grad(score(network, images).sum(), images)
        with torch.no_grad():
            weight.sub_(distance * step)
        return found.square().sum()

    slope = (penalty(1e-7) - penalty(-1e-7)) / 2e-7
    torch.testing.assert_close((weight.grad * step).sum(), slope, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("options", GENERATORS.values(), ids=GENERATORS)
def test_it_draws_under_autocast(options):
    network = generator(**options).float()
    z = noise(4, network.blocks[0].conv.in_channels - 3, seed=2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (images,) = network(noise(4, 3).float(), z, 64, 1.0, KEYS)
    assert images.dtype == torch.float32
    exact = draw(generator(**options))
    assert (images - exact).square().mean() < 0.05**2 * exact.square().mean()
    images.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("options", CRITICS.values(), ids=CRITICS)
def test_it_judges_under_autocast(options):
    network, images = critic(**options).float(), noise(4, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network.features((images.float(),), 64, 1.0)
        assert features.dtype == torch.bfloat16
        logits = network.logits(features, noise(4, 7 if network.conditional else 0).float())
    torch.testing.assert_close(logits.double(), score(critic(**options), images), atol=0.1, rtol=0.1)
    logits.sum().backward()


def test_it_does_not_grow():
    for arguments in ((32, 1.0), (64, 0.5)):
        with pytest.raises(AssertionError, match="resolution"):
            generator()(noise(4, 3), noise(4, 5), *arguments, KEYS)
        with pytest.raises(AssertionError, match="resolution"):
            critic().features((noise(4, 3, 64, 64),), *arguments)
    with pytest.raises(AssertionError, match="resolution"):
        generator().active(64, True)


def test_a_meta_device_will_do():
    with torch.device("meta"):
        network = Generator(Dcgan(channels=(6, 4), spectral_norm=True, dropout=0.5), 3, BATCH_NORM)
        judge = Discriminator(DcganCritic(channels=(6, 4), minibatch_discrimination=CROWD), 7, BATCH_NORM)
    assert all(p.is_meta for net in (network, judge) for p in net.parameters())
