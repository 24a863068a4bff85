import copy

import pytest
import torch

from t2f_dist.models.spectral_norm import SpectralConv2d, SpectralConvTranspose2d, SpectralLinear

LAYERS = {
    "linear": (lambda: SpectralLinear(6, 4), (2, 6)),
    "conv": (lambda: SpectralConv2d(3, 4, 4, 2, 1), (2, 3, 6, 6)),
    "transposed": (lambda: SpectralConvTranspose2d(3, 5, 4, 2, 1, bias=False), (2, 3, 4, 4)),
}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=LAYERS, ids=str)
def made(request):
    torch.manual_seed(0)
    build, shape = LAYERS[request.param]
    return build().double(), shape


def matrix(layer) -> torch.Tensor:
    """Output channels by the rest, from the definition of each layer's weight."""
    weight = layer.weight.detach()
    if isinstance(layer, SpectralConvTranspose2d):
        return torch.stack([weight[:, out].flatten() for out in range(layer.out_channels)])
    return torch.stack([row.flatten() for row in weight])


def test_sigma_converges_to_the_largest_singular_value(made):
    layer, _ = made
    exact = torch.linalg.svdvals(matrix(layer))[0]
    assert 0.8 * exact < layer.sigma() <= exact * (1 + 1e-6), "the first iterations come close"
    before = layer.sigma()
    layer.iterate()
    assert layer.sigma() >= before - 1e-12, "an iteration never loses ground"
    for _ in range(3000):
        layer.iterate()
    torch.testing.assert_close(layer.sigma().detach(), exact)
    normalized = layer.normalized_weight().detach()
    torch.testing.assert_close(normalized, layer.weight.detach() / exact)


def test_it_is_the_torch_layer_with_the_weight_divided(made):
    layer, shape = made
    plain_class = next(base for base in type(layer).__mro__ if base.__module__.startswith("torch.nn"))
    plain = copy.deepcopy(layer)
    plain.__class__ = plain_class
    with torch.no_grad():
        plain.weight.copy_(layer.normalized_weight())
    torch.testing.assert_close(layer(normal(*shape)), plain(normal(*shape)))
    scaled = copy.deepcopy(layer)
    with torch.no_grad():
        scaled.weight.mul_(7)
    torch.testing.assert_close(scaled(normal(*shape)), layer(normal(*shape)))


def test_gradient_flows_through_sigma_twice_over(made):
    layer, shape = made
    x = normal(*shape).requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()

    def run(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(run, (x, weight))
    assert torch.autograd.gradgradcheck(run, (x, weight))
    found = torch.autograd.grad(layer.normalized_weight().square().sum(), layer.weight)[0]
    # Nothing is gained by a longer weight: the gradient of what has no scale is orthogonal to the weight.
    torch.testing.assert_close((found * layer.weight).sum(), torch.zeros((), dtype=torch.float64))


def test_only_iterate_moves_the_vectors(made):
    layer, shape = made
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    assert set(before) == {"u", "v"} and not {"u", "v"} & {name for name, _ in layer.named_parameters()}
    for _ in range(3):
        layer.train()(normal(*shape)).sum().backward()
    layer.eval()(normal(*shape))
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())
    with torch.no_grad():
        layer.weight.add_(torch.randn_like(layer.weight))
    layer.iterate()
    assert all(not torch.equal(buffer, before[name]) for name, buffer in layer.named_buffers())
    for buffer in layer.buffers():
        torch.testing.assert_close(buffer.norm(), torch.ones((), dtype=torch.float64))


def test_the_seed_decides_and_a_meta_device_will_do():
    def drawn(seed: int) -> SpectralConv2d:
        torch.manual_seed(seed)
        return SpectralConv2d(3, 4, 3)

    assert torch.equal(drawn(0).u, drawn(0).u) and not torch.equal(drawn(0).u, drawn(1).u)
    with torch.device("meta"):
        empty = SpectralConvTranspose2d(3, 5, 4)
    assert empty.u.shape == (5,) and empty.v.shape == (48,) and empty.u.is_meta
    full = SpectralConvTranspose2d(3, 5, 4)
    empty.load_state_dict(full.state_dict(), assign=True)
    torch.testing.assert_close(empty.sigma(), full.sigma())


def test_sigma_is_of_float32_under_autocast():
    layer = SpectralLinear(64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.sigma(), layer.sigma().float())
        inside = layer.sigma()
    assert inside.dtype == torch.float32 and torch.equal(inside, layer.sigma())
