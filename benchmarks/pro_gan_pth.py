"""What the networks of pro-gan-pth compute, written to a file; benchmarks/parity.py runs it where that is installed.

    python pro_gan_pth.py 3.4 DUMP.safetensors

Weights and inputs are random and fixed. Imports nothing of t2f-dist. The file holds, of each network ("generator",
"critic"):

    <network>/weight/<layer>, bias/<layer>, scale/<layer>   of every equalised layer: it multiplies by weight x scale
    <network>/input/<module>, output/<module>               of every such layer and every block by itself
    <network>/embedding/<module>                            the second input of a final block that takes one
    case/<resolution>/<alpha>/...                           inputs and outputs of both networks as a whole

and as metadata the numbers of parameters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

LATENT, EMBEDDING, COMPRESSED = 512, 512, 128
NUM_RESOLUTIONS = 7  # 4 to 256
CASES = [(4, 1.0), (8, 0.3), (16, 0.8), (64, 0.5), (128, 1.0), (256, 0.25)]
PIXELS = 8  # of the input of a layer by itself; what a convolution does, it does anywhere


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape)


class Conditional:
    """1.3.3.3: what T2F trains. Depth 0 is 4x4; the layers' scales are plain tensors, in no state dict."""

    batch = 4  # the minibatch standard deviation is over all of it

    def __init__(self) -> None:
        layers = import_module("pro_gan_pytorch.CustomLayers")
        networks = import_module("pro_gan_pytorch.PRO_GAN")
        self.equalized = (
            layers._equalized_conv2d,
            layers._equalized_deconv2d,
            layers._equalized_linear,
        )
        self.blocks = (
            layers.GenInitialBlock,
            layers.GenGeneralConvBlock,
            layers.DisGeneralConvBlock,
            layers.ConDisFinalBlock,
        )
        self.generator = networks.Generator(NUM_RESOLUTIONS, LATENT)
        self.critic = networks.ConditionalDiscriminator(NUM_RESOLUTIONS, LATENT, EMBEDDING, COMPRESSED)

    def image(self, latent: Tensor, number: int, alpha: float) -> Tensor:
        return self.generator(latent, number, alpha)

    def logits(self, image: Tensor, embedding: Tensor, number: int, alpha: float) -> Tensor:
        return self.critic(image, embedding, number, alpha)

    def judged(self, block: nn.Module, features: Tensor, embedding: Tensor) -> Tensor:
        return block(features, embedding)


class Unconditional:
    """3.4. Depth 2 is 4x4."""

    batch = 8  # two groups of 4

    def __init__(self) -> None:
        layers = import_module("pro_gan_pytorch.custom_layers")
        modules = import_module("pro_gan_pytorch.modules")
        networks = import_module("pro_gan_pytorch.networks")
        transposed = layers.EqualizedConvTranspose2d
        transposed._output_padding = _output_padding
        self.equalized = (layers.EqualizedConv2d, transposed)
        self.blocks = (
            modules.GenInitialBlock,
            modules.GenGeneralConvBlock,
            modules.DisGeneralConvBlock,
            modules.DisFinalBlock,
        )
        self.generator = networks.Generator(NUM_RESOLUTIONS + 1, 3, LATENT)
        self.critic = networks.Discriminator(NUM_RESOLUTIONS + 1, 3, LATENT)

    def image(self, latent: Tensor, number: int, alpha: float) -> Tensor:
        return self.generator(latent, number + 2, alpha)

    def logits(self, image: Tensor, embedding: Tensor, number: int, alpha: float) -> Tensor:
        del embedding
        return self.critic(image, number + 2, alpha)

    def judged(self, block: nn.Module, features: Tensor, embedding: Tensor) -> Tensor:
        del embedding
        return block(features)


def _output_padding(layer: nn.ConvTranspose2d, x: Any, size: Any, stride: Any, padding: Any, kernel: Any) -> list[int]:
    """As 3.4 calls it; torch wants to be told the number of dimensions, too, by now."""
    return nn.ConvTranspose2d._output_padding(layer, x, size, stride, padding, kernel, 2)


PACKAGES: dict[str, Callable[[], Conditional | Unconditional]] = {"1.3.3.3": Conditional, "3.4": Unconditional}


def dump(package: Conditional | Unconditional) -> dict[str, Tensor]:
    out = {}
    for name, network in (("generator", package.generator), ("critic", package.critic)):
        for layer_name, layer in network.named_modules():
            if isinstance(layer, package.equalized):
                out |= _layer(f"{name}/{{}}/{layer_name}", layer)
        for block_name, block in network.named_modules():
            if isinstance(block, package.blocks):
                out |= _block(f"{name}/{{}}/{block_name}", block, package)
    for resolution, alpha in CASES:
        number = resolution.bit_length() - 3
        case = {
            "latent": normal(package.batch, LATENT),
            "real": normal(package.batch, 3, resolution, resolution),
            "embedding": normal(package.batch, EMBEDDING),
        }
        case["image"] = package.image(case["latent"], number, alpha)
        case["logits"] = package.logits(case["real"], case["embedding"], number, alpha)
        out |= {f"case/{resolution}/{alpha}/{key}": value for key, value in case.items()}
    return out


def _layer(key: str, layer: Any) -> dict[str, Tensor]:
    (weight,) = (value for name, value in layer.named_parameters() if name.endswith("weight"))
    bias = layer.bias
    bias.copy_(0.5 * normal(*bias.shape))  # they begin at 0, where a lost one would not show
    if weight.dim() == 2:  # linear
        x = normal(4, weight.shape[1])
    elif "deconv" in type(layer).__name__ or "Transpose" in type(layer).__name__:
        x = normal(4, weight.shape[0], 1, 1)
    else:
        x = normal(4, weight.shape[1], PIXELS, PIXELS)
    values = {"weight": weight, "bias": bias, "scale": torch.as_tensor(layer.scale, dtype=torch.float64)}
    return {key.format(name): value for name, value in (values | {"input": x, "output": layer(x)}).items()}


def _block(key: str, block: nn.Module, package: Conditional | Unconditional) -> dict[str, Tensor]:
    kind = type(block).__name__
    embedding = normal(package.batch, EMBEDDING)
    if kind == "GenInitialBlock":
        x = normal(package.batch, LATENT)
        values = {"input": x, "output": block(x)}
    elif "Final" in kind:
        x = normal(package.batch, LATENT, 4, 4)
        values = {"input": x, "embedding": embedding, "output": package.judged(block, x, embedding)}
    else:
        first = next(value for name, value in block.named_parameters() if name.endswith("weight"))
        x = normal(package.batch, first.shape[1], PIXELS, PIXELS)
        values = {"input": x, "output": block(x)}
    return {key.format(name): value for name, value in values.items()}


def main() -> None:
    wanted, path = sys.argv[1:]
    assert version("pro-gan-pth") == wanted, f"pro-gan-pth {version('pro-gan-pth')} is installed, not {wanted}"
    torch.manual_seed(0)
    with torch.no_grad():
        package = PACKAGES[wanted]()
        tensors = {key: value.contiguous() for key, value in dump(package).items()}
    networks = {"generator": package.generator, "critic": package.critic}
    counts = {name: str(sum(p.numel() for p in network.parameters())) for name, network in networks.items()}
    save_file(tensors, path, metadata={"torch": torch.__version__, **counts})


if __name__ == "__main__":
    main()
