from itertools import pairwise

import pytest
import torch

from t2f_dist.config.networks import Msggan, MsgganCritic
from t2f_dist.config.schema import BatchNorm
from t2f_dist.models.layers import downsample
from t2f_dist.models.msggan import Discriminator, Generator

CHANNELS = {4: (8,), 64: (9, 8, 7, 6, 4), 128: (9, 8, 7, 6, 5, 4)}
HEADS = ["concat", "projection", "unconditional"]
KEYS = torch.arange(4)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def generator(resolution: int = 64, **options) -> Generator:
    torch.manual_seed(0)
    return Generator(Msggan(channels=CHANNELS[resolution], z_size=5, **options), 3, BatchNorm()).double()


def critic(resolution: int = 64, head: str = "concat") -> Discriminator:
    torch.manual_seed(0)
    section = MsgganCritic(channels=CHANNELS[resolution], stddev_group_size=2, head=head, head_size=6)
    return Discriminator(section, 0 if head == "unconditional" else 7, BatchNorm()).double()


def score(network: Discriminator, images: tuple[torch.Tensor, ...], head: str = "concat") -> torch.Tensor:
    features = network.features(images, network.resolution, 1.0)
    assert features.shape[:2] == (len(images[0]), network.feature_size)
    return network.logits(features, noise(len(images[0]), 0 if head == "unconditional" else 7))


def check_gradients(network: torch.nn.Module, resolution: int) -> None:
    """Each parameter has one, that is not zero, and belongs to a layer said to be active."""
    active = {id(p) for layer in network.active(resolution, False) for p in layer.parameters()}
    for name, parameter in network.named_parameters():
        assert id(parameter) in active, name
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("resolution", CHANNELS)
def test_every_layer_learns_and_every_resolution_is_drawn(resolution, head):
    network, judge = generator(resolution), critic(resolution, head)
    images = network(noise(4, 3), noise(4, 5), resolution, 1.0, KEYS)
    assert [image.shape for image in images] == [(4, 3, r, r) for r in (4, 8, 16, 32, 64, 128) if r <= resolution]
    logits = score(judge, images, head)
    assert logits.shape == (4,)
    (logits * noise(4)).sum().backward()
    check_gradients(network, resolution)
    check_gradients(judge, resolution)


def test_views_are_a_box_filtered_pyramid():
    images = noise(2, 3, 64, 64)
    views = critic().views(images)
    assert [view.shape[-1] for view in views] == [4, 8, 16, 32, 64]
    assert torch.equal(views[-1], images)
    for small, large in pairwise(views):
        assert torch.equal(small, downsample(large))
    torch.testing.assert_close(views[0], images.view(2, 3, 4, 16, 4, 16).mean(dim=(3, 5)))


def test_the_image_of_every_resolution_counts_in_the_score():
    judge = critic()
    views = judge.views(noise(4, 3, 64, 64))
    before = score(judge, views)
    for number, view in enumerate(views):
        changed = list(views)
        changed[number] = view + noise(*view.shape, seed=2)
        assert not torch.isclose(score(judge, tuple(changed)), before).any()


def test_each_image_is_drawn_linearly_from_the_features_of_its_resolution():
    """The gradient of the image at r reaches the blocks up to r and none above."""
    network = generator()
    images = network(noise(4, 3), noise(4, 5), 64, 1.0, KEYS)
    for number, image in enumerate(images):
        parameters = [block.convs[0].weight for block in network.blocks]
        found = torch.autograd.grad(image.sum(), parameters, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in found] == [place < number for place in range(4)]
    with torch.no_grad():
        for to_rgb in network.to_rgb:
            to_rgb.weight.mul_(100)
    assert all(image.abs().max() > 1 for image in network(noise(4, 3), noise(4, 5), 64, 1.0, KEYS))


def test_a_normalised_latent_has_a_direction_only():
    network = generator()
    first = network(noise(4, 3), noise(4, 5), 64, 1.0, KEYS)
    longer = network(3 * noise(4, 3), 3 * noise(4, 5), 64, 1.0, KEYS)
    torch.testing.assert_close(longer, first)
    # Otherwise its length counts, as soon as the stem has a bias: before, pixel normalisation takes it away.
    for normalized in (True, False):
        network = generator(normalize_latent=normalized)
        with torch.no_grad():
            network.stem.linear.bias.add_(1)
        first = network(noise(4, 3), noise(4, 5), 64, 1.0, KEYS)[0]
        longer = network(3 * noise(4, 3), 3 * noise(4, 5), 64, 1.0, KEYS)[0]
        assert torch.isclose(longer, first).all() == normalized


def test_parameter_counts_are_those_written_out_by_hand():
    network = Generator(Msggan(channels=(8, 6), z_size=5), 3, BatchNorm())
    stem = (8 * 128 + 128) + (8 * 8 * 9 + 8)
    block = (8 * 6 * 9 + 6) + (6 * 6 * 9 + 6)
    assert sum(p.numel() for p in network.parameters()) == stem + block + (8 * 3 + 3) + (6 * 3 + 3)
    judge = Discriminator(MsgganCritic(channels=(8, 6), head_size=4), 7, BatchNorm())
    from_rgb = (3 * 6 + 6) + (3 * 4 + 4)  # all of 6 at 8x8, half of 8 at 4x4
    block = (6 * 6 * 9 + 6) + (6 * 4 * 9 + 4)
    final = 9 * 8 * 9 + 8
    head = (7 * 4 + 4) + (12 * 8 + 8) + (8 * 8 * 16 + 8) + (8 + 1)
    assert sum(p.numel() for p in judge.parameters()) == from_rgb + block + final + head


def test_a_logit_depends_on_its_group_alone():
    judge, images = critic(), noise(4, 3, 64, 64)
    whole = score(judge, judge.views(images))
    changed = images.clone()
    changed[2:] += 1
    again = score(judge, judge.views(changed))
    torch.testing.assert_close(again[:2], whole[:2])
    assert not torch.isclose(again[2:], whole[2:]).any()


def test_a_gradient_penalty_over_all_resolutions_reaches_the_weights():
    judge = critic()
    views = tuple(view.detach().requires_grad_() for view in judge.views(noise(4, 3, 64, 64)))
    gradients = torch.autograd.grad(score(judge, views).sum(), views, create_graph=True)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    sum(gradient.square().sum() for gradient in gradients).backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in judge.from_rgb)
    assert all(conv.weight.grad.abs().max() > 0 for block in judge.blocks for conv in block.convs)


def test_it_runs_under_autocast():
    network, judge = generator().float(), critic().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = network(noise(4, 3).float(), noise(4, 5).float(), 64, 1.0, KEYS)
        features = judge.features(images, 64, 1.0)
        logits = judge.logits(features, noise(4, 7).float())
    assert {image.dtype for image in images} == {torch.float32} and features.dtype == torch.bfloat16
    exact = generator()(noise(4, 3), noise(4, 5), 64, 1.0, KEYS)
    for image, wanted in zip(images, exact, strict=True):
        assert (image - wanted).square().mean() < 0.05**2 * wanted.square().mean()
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_it_does_not_grow():
    for arguments in ((32, 1.0), (64, 0.5)):
        with pytest.raises(AssertionError, match="resolution"):
            generator()(noise(4, 3), noise(4, 5), *arguments, KEYS)
        with pytest.raises(AssertionError, match="resolution"):
            critic().features(critic().views(noise(4, 3, 64, 64)), *arguments)
