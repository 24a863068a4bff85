"""The last layers of the progressive discriminators, against what the papers write."""

import pytest
import torch

from t2f_dist.models.heads import HEADS
from t2f_dist.models.layers import EqualizedLinear, leaky

CHANNELS, EMBEDDING, HEAD = 5, 7, 6


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def head(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return HEADS[kind](CHANNELS, 0 if kind == "unconditional" else EMBEDDING, HEAD).double()


def numbers(layer: EqualizedLinear) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.weight * layer.scale, layer.bias


def test_the_projection_is_a_score_and_an_inner_product():
    """Equation 3 of 1802.05637: psi(phi(x)) + y^T V phi(x), here with V of a low rank."""
    network = head("projection")
    features = network.features(noise(3, CHANNELS, 4, 4))
    assert features.shape == (3, CHANNELS)
    conv = torch.einsum("nchw,ochw->no", noise(3, CHANNELS, 4, 4), network.conv.weight * network.conv.scale)
    torch.testing.assert_close(features, leaky(conv + network.conv.bias))
    (image, a), (caption, b), (out, c) = (numbers(layer) for layer in (network.image, network.embedding, network.out))
    embedding = noise(3, EMBEDDING, seed=2)
    match = ((features @ image.T + a) * (embedding @ caption.T + b)).sum(dim=1) / HEAD**0.5
    torch.testing.assert_close(network(features, embedding), (features @ out.T + c).squeeze(1) + match)


def test_of_the_projection_the_embedding_is_affine():
    network = head("projection")
    features = network.features(noise(3, CHANNELS, 4, 4))
    one, other = noise(3, EMBEDDING, seed=2), noise(3, EMBEDDING, seed=3)
    middle = network(features, (one + other) / 2)
    torch.testing.assert_close(middle, (network(features, one) + network(features, other)) / 2)


def test_the_compressed_embedding_joins_every_pixel_alike():
    network = head("concat")
    x = noise(3, CHANNELS, 4, 4)
    assert network.features(x) is x
    weight, bias = numbers(network.compress)
    compressed = noise(3, EMBEDDING, seed=2) @ weight.T + bias
    joined = torch.cat([x, compressed[:, :, None, None].expand(3, HEAD, 4, 4)], dim=1)
    join = torch.einsum("nchw,oc->nohw", joined, network.join.weight[:, :, 0, 0] * network.join.scale)
    joined = leaky(join + network.join.bias[:, None, None])
    conv = torch.einsum("nchw,ochw->no", joined, network.conv.weight * network.conv.scale)
    weight, bias = numbers(network.out)
    expected = (leaky(conv + network.conv.bias) @ weight.T + bias).squeeze(1)
    torch.testing.assert_close(network(x, noise(3, EMBEDDING, seed=2)), expected)


def test_without_a_condition_the_image_alone_is_scored():
    network = head("unconditional")
    features = network.features(noise(3, CHANNELS, 4, 4))
    weight, bias = numbers(network.out)
    torch.testing.assert_close(network(features, noise(3, 0)), (features @ weight.T + bias).squeeze(1))
    with pytest.raises(AssertionError):
        HEADS["unconditional"](CHANNELS, EMBEDDING, HEAD)


@pytest.mark.parametrize("kind", HEADS)
def test_a_score_is_of_one_image_and_every_weight_has_a_part_in_it(kind: str):
    network = head(kind)
    x, embedding = noise(3, CHANNELS, 4, 4), noise(3, 0 if kind == "unconditional" else EMBEDDING)
    logits = network(network.features(x), embedding)
    assert logits.shape == (3,)
    alone = network(network.features(x[1:2]), embedding[1:2])
    torch.testing.assert_close(alone, logits[1:2])
    (logits * noise(3, seed=4)).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())
    assert network.feature_size == CHANNELS
