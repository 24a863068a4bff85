import pytest
import torch

from t2f_dist.models.layers import (
    EqualizedConv2d,
    EqualizedLinear,
    downsample,
    minibatch_stddev,
    pixel_norm,
    upsample,
)

generator = torch.Generator().manual_seed(0)


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("layer", [EqualizedConv2d(64, 64, 3, padding=1, gain=1.0), EqualizedLinear(512, 256)])
def test_equalized_layers_keep_the_variance_whatever_their_width(layer):
    shape = (8, 64, 16, 16) if isinstance(layer, EqualizedConv2d) else (64, 512)
    with torch.no_grad():
        out = layer(normal(*shape, dtype=torch.float32))
    inner = out[..., 1:-1, 1:-1] if out.dim() == 4 else out
    assert 0.9 < inner.var() < 1.1
    assert 0.95 < layer.weight.detach().std() < 1.05, "weights are stored at unit variance"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_pixel_norm_gives_each_pixel_unit_mean_square_in_any_precision(dtype):
    x = (normal(2, 32, 4, 4) * 300).to(dtype)  # squares of 300 overflow fp16
    mean_square = pixel_norm(x).double().square().mean(dim=1)
    tolerance = {torch.bfloat16: 0.02, torch.float16: 2e-3}.get(dtype, 1e-6)
    assert pixel_norm(x).dtype == dtype
    torch.testing.assert_close(mean_square, torch.ones_like(mean_square), atol=tolerance, rtol=0)
    assert torch.isfinite(pixel_norm(torch.zeros(1, 4, 2, 2, dtype=dtype))).all()


def test_minibatch_stddev_is_a_statistic_of_consecutive_groups():
    x = normal(8, 3, 4, 4)
    out = minibatch_stddev(x, group_size=4)
    assert out.shape == (8, 4, 4, 4)
    assert torch.equal(out[:, :3], x)
    for group in range(2):
        rows = x[4 * group : 4 * group + 4]
        expected = (rows.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(out[4 * group : 4 * group + 4, 3], expected.expand(4, 4, 4))
    shares = torch.cat([minibatch_stddev(share, 4) for share in x.split(4)])
    assert torch.equal(shares, out), "a share of whole groups has the statistics of the whole"
    same = torch.ones(4, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    minibatch_stddev(same, 4).sum().backward()
    assert torch.isfinite(same.grad).all()


def test_downsample_undoes_upsample():
    x = normal(2, 3, 4, 4)
    assert torch.equal(downsample(upsample(x)), x)
