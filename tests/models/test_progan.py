import pytest
import torch

from t2f_dist.config.networks import Progan, ProganCritic
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.layers import downsample, upsample
from t2f_dist.models.progan import Discriminator, Generator

CHANNELS = (8, 8, 6, 4)
KEYS = torch.arange(4)
STEPS = [(4, 1.0), (8, 0.3), (8, 1.0), (16, 0.5), (16, 1.0), (32, 0.7)]


@pytest.fixture(params=[1, 2])
def generator(request):
    torch.manual_seed(0)
    section = Progan(z_size=5, channels=CHANNELS, convs_per_block=request.param)
    return Generator(section, 3, BatchNorm()).double()


@pytest.fixture(params=[("concat", "pool"), ("projection", "stride"), ("unconditional", "pool")], ids=str)
def discriminator(request):
    torch.manual_seed(0)
    head, halving = request.param
    section = ProganCritic(channels=CHANNELS, head=head, halving=halving, head_size=6, stddev_group_size=2)
    return Discriminator(section, 0 if head == "unconditional" else 7, BatchNorm()).double()


def noise(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def draw(generator, resolution, alpha):
    (image,) = generator(noise(4, 3), noise(4, 5), resolution, alpha, KEYS)
    return image


def score(discriminator, images, resolution, alpha):
    features = discriminator.features(discriminator.views(images), resolution, alpha)
    assert features.shape[:2] == (len(images), discriminator.feature_size)
    return discriminator.logits(features, noise(len(images), 7))


def test_a_block_that_begins_to_fade_in_changes_nothing(generator, discriminator):
    small = draw(generator, 8, 1.0)
    torch.testing.assert_close(draw(generator, 16, 0.0), upsample(small))
    images = noise(4, 3, 16, 16)
    before = score(discriminator, downsample(images), 8, 1.0)
    torch.testing.assert_close(score(discriminator, images, 16, 0.0), before)


def test_fading_is_continuous_at_both_ends(generator, discriminator):
    for alpha in (0.0, 1.0):
        near = abs(alpha - 1e-9)
        torch.testing.assert_close(draw(generator, 32, near), draw(generator, 32, alpha), atol=1e-6, rtol=0)
        images = noise(4, 3, 32, 32)
        torch.testing.assert_close(
            score(discriminator, images, 32, near), score(discriminator, images, 32, alpha), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize(("resolution", "alpha"), STEPS)
def test_active_layers_are_exactly_those_that_get_gradients(generator, discriminator, resolution, alpha):
    images = draw(generator, resolution, alpha)
    assert images.shape == (4, 3, resolution, resolution)
    score(discriminator, images, resolution, alpha).square().sum().backward()
    for network in (generator, discriminator):
        active = {id(p) for layer in network.active(resolution, alpha < 1) for p in layer.parameters()}
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == (id(parameter) in active), name


def test_parameter_counts_are_those_written_out_by_hand():
    generator = Generator(Progan(z_size=5, channels=(8, 6), convs_per_block=2), 3, BatchNorm())
    stem = (8 * 128 + 128) + (8 * 8 * 9 + 8)
    block = (8 * 6 * 9 + 6) + (6 * 6 * 9 + 6)
    assert sum(p.numel() for p in generator.parameters()) == stem + block + (8 * 3 + 3) + (6 * 3 + 3)
    section = ProganCritic(channels=(8, 6), head="concat", head_size=4, stddev_group_size=2)
    discriminator = Discriminator(section, 7, BatchNorm())
    from_rgb = (3 * 8 + 8) + (3 * 6 + 6)
    block = (6 * 6 * 9 + 6) + (6 * 8 * 9 + 8)
    final = 9 * 8 * 9 + 8
    head = (7 * 4 + 4) + (12 * 8 + 8) + (8 * 8 * 16 + 8) + (8 + 1)
    assert sum(p.numel() for p in discriminator.parameters()) == from_rgb + block + final + head


def test_a_logit_depends_on_its_group_alone(discriminator):
    images = noise(6, 3, 8, 8)
    whole = score(discriminator, images, 8, 1.0)
    changed = images.clone()
    changed[4:] += 1
    torch.testing.assert_close(score(discriminator, changed, 8, 1.0)[:4], whole[:4])


def test_neither_the_dropout_key_nor_other_positions_change_an_image(generator):
    whole = draw(generator, 16, 0.5)
    (other_keys,) = generator(noise(4, 3), noise(4, 5), 16, 0.5, KEYS + 9)
    assert torch.equal(other_keys, whole)
    (alone,) = generator(noise(4, 3)[1:2], noise(4, 5)[1:2], 16, 0.5, KEYS[1:2])
    torch.testing.assert_close(alone, whole[1:2])


def test_a_normalised_latent_has_a_direction_only():
    for normalized in (True, False):
        torch.manual_seed(0)
        section = Progan(z_size=5, channels=(8, 6), normalize_latent=normalized)
        generator = Generator(section, 3, BatchNorm()).double()
        with torch.no_grad():
            generator.stem.linear.bias.add_(1)  # else pixel normalisation takes the length away
        (first,) = generator(noise(4, 3), noise(4, 5), 8, 1.0, KEYS)
        (longer,) = generator(3 * noise(4, 3), 3 * noise(4, 5), 8, 1.0, KEYS)
        assert torch.isclose(first, longer).all() == normalized
