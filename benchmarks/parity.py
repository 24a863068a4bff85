"""Our progressive networks beside those of pro-gan-pth, with its weights: layer by layer, block by block, as a whole.

    python -m benchmarks.parity

Version 1.3.3.3 holds the conditional networks that T2F trains, 3.4 the unconditional ones. Each is installed once and
alone into an environment of its own, which borrows torch from this one; there benchmarks/pro_gan_pth.py writes down
weights, inputs and outputs. Exit status 1 if an output differs by more than 1e-5.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from safetensors import safe_open
from torch import Tensor, nn

from benchmarks import section
from benchmarks.peers import environment
from benchmarks.pro_gan_pth import COMPRESSED, EMBEDDING, LATENT, NUM_RESOLUTIONS, PACKAGES
from t2f_dist.config import networks, schema
from t2f_dist.models import progan
from t2f_dist.models.layers import EqualizedConv2d, EqualizedLinear, leaky, minibatch_stddev, pixel_norm

TOLERANCE = 1e-5
RESOLUTIONS = [4 * 2**number for number in range(NUM_RESOLUTIONS)]


@dataclass(frozen=True)
class Difference:
    network: str  # generator or critic
    what: str  # layer, block or whole
    name: str
    largest: float  # absolute
    magnitude: float  # root mean square of theirs


@dataclass(frozen=True)
class Version:
    """Where a version keeps its layers, and our networks of the same shape."""

    number: str
    layers: dict[str, dict[str, str]]  # network -> name of theirs -> name of ours
    blocks: dict[str, dict[str, str]]
    generator: networks.Progan
    critic: networks.ProganCritic
    embedding_size: int
    order: list[int]  # of their batch: groups of the minibatch standard deviation become consecutive


def conditional() -> Version:
    num = range(NUM_RESOLUTIONS - 1)
    ours = [f"blocks.{r}" for r in RESOLUTIONS[1:]]
    convs = {f"layers.{i}.conv_{c + 1}": f"{ours[i]}.convs.{c}" for i in num for c in (0, 1)}
    stem = {"initial_block.conv_1": "stem.linear", "initial_block.conv_2": "stem.conv"}
    final = {"conv_1": "final", "compressor": "head.compress", "conv_2": "head.join", "conv_3": "head.conv"}
    final = {f"final_block.{theirs}": mine for theirs, mine in (final | {"conv_4": "head.out"}).items()}
    channels = (512, 512, 512, 512, 256, 128, 64)
    to_rgb = {f"rgb_converters.{i}": f"to_rgb.{r}" for i, r in enumerate(RESOLUTIONS)}
    from_rgb = {f"rgb_to_features.{i}": f"from_rgb.{r}" for i, r in enumerate(RESOLUTIONS)}
    blocks = {f"layers.{i}": ours[i] for i in num}
    return Version(
        "1.3.3.3",
        layers={"generator": stem | convs | to_rgb, "critic": convs | from_rgb | final},
        blocks={"generator": {"initial_block": "stem"} | blocks, "critic": blocks | {"final_block": "head"}},
        generator=networks.Progan(channels=channels, z_size=LATENT),
        critic=networks.ProganCritic(channels=channels, head="concat", head_size=COMPRESSED, stddev_group_size=4),
        embedding_size=EMBEDDING,
        order=list(range(4)),
    )


def unconditional() -> Version:
    last = NUM_RESOLUTIONS - 1  # of the critic's lists, which run from the largest resolution to 4
    number = range(1, NUM_RESOLUTIONS)
    ours = {i: f"blocks.{r}" for i, r in enumerate(RESOLUTIONS) if i}
    grown = {f"layers.{i}.conv_{c + 1}": f"{ours[i]}.convs.{c}" for i in number for c in (0, 1)}
    judged = {f"layers.{last - i}.conv_{c + 1}": f"{ours[i]}.convs.{c}" for i in number for c in (0, 1)}
    stem = {"layers.0.conv_1": "stem.linear", "layers.0.conv_2": "stem.conv"}
    final = {"conv_1": "final", "conv_2": "head.conv", "conv_3": "head.out"}
    final = {f"layers.{last}.{theirs}": mine for theirs, mine in final.items()}
    channels = (512, 512, 512, 512, 512, 256, 128)
    to_rgb = {f"rgb_converters.{i}": f"to_rgb.{r}" for i, r in enumerate(RESOLUTIONS)}
    from_rgb = {f"from_rgb.{last - i}.0": f"from_rgb.{r}" for i, r in enumerate(RESOLUTIONS)}
    return Version(
        "3.4",
        layers={"generator": stem | grown | to_rgb, "critic": judged | from_rgb | final},
        blocks={
            "generator": {"layers.0": "stem"} | {f"layers.{i}": ours[i] for i in number},
            "critic": {f"layers.{last - i}": ours[i] for i in number} | {f"layers.{last}": "head"},
        },
        generator=networks.Progan(channels=channels, z_size=LATENT, normalize_latent=True),
        critic=networks.ProganCritic(
            channels=channels, head="unconditional", from_rgb_activation=True, stddev_group_size=4
        ),
        embedding_size=0,
        order=torch.arange(8).view(4, 2).T.flatten().tolist(),
    )


# Their side


def dumped(number: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) as benchmarks/pro_gan_pth.py tells."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dump.safetensors"
        python = environment.python(f"pro-gan-pth-{number}")
        subprocess.run(
            [str(python), str(section.ROOT / "benchmarks" / "pro_gan_pth.py"), number, str(path)], check=True
        )
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


# Our side


def built(version: Version, theirs: dict[str, Tensor]) -> dict[str, nn.Module]:
    """Our two networks with their weights. Every layer of either side has its partner."""
    batch_norm = schema.BatchNorm()
    built = {
        "generator": progan.Generator(version.generator, 0, batch_norm),
        "critic": progan.Discriminator(version.critic, version.embedding_size, batch_norm),
    }
    for network, names in version.layers.items():
        layers = {name: layer for name, layer in built[network].named_modules() if is_layer(layer)}
        given = {key.split("/", 2)[2] for key in theirs if key.startswith(f"{network}/weight/")}
        assert given == set(names) and set(layers) == set(names.values()), "layers without a partner"
        for name, mine in names.items():
            copy(layers[mine], *(theirs[f"{network}/{part}/{name}"] for part in ("weight", "bias", "scale")))
    return built


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, (EqualizedConv2d, EqualizedLinear))


def copy(layer: nn.Module, weight: Tensor, bias: Tensor, scale: Tensor) -> None:
    """Their weight at run time is weight x scale; ours too, with a scale of our own."""
    assert isinstance(layer, (EqualizedConv2d, EqualizedLinear)) and layer.bias is not None
    if isinstance(layer, EqualizedLinear) and weight.shape[-1] == 4:  # transposed, of one pixel: a map to all pixels
        weight = weight.permute(1, 2, 3, 0).flatten(0, 2)
        bias = bias.repeat_interleave(16)
    if isinstance(layer, EqualizedLinear):
        weight = weight.reshape(len(weight), -1)
    assert layer.weight.shape == weight.shape and layer.bias.shape == bias.shape, f"{layer}, theirs {weight.shape}"
    layer.weight.copy_(weight.double() * scale / layer.scale)
    layer.bias.copy_(bias)


def applied(layer: nn.Module, x: Tensor) -> Tensor:
    """What is a convolution there and a linear layer here is taken at every pixel."""
    if isinstance(layer, EqualizedLinear) and x.dim() == 4:
        return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return layer(x)


def compared(version: Version, theirs: dict[str, Tensor], ours: dict[str, nn.Module]) -> Iterator[Difference]:
    generator, critic = ours["generator"], ours["critic"]
    assert isinstance(generator, progan.Generator) and isinstance(critic, progan.Discriminator)

    def differ(network: str, what: str, name: str, mine: Tensor, expected: Tensor) -> Difference:
        assert mine.numel() == expected.numel() and mine.dtype == expected.dtype == torch.float32
        largest = (mine.reshape(expected.shape) - expected).abs().max().item()
        return Difference(network, what, name, largest, expected.square().mean().sqrt().item())

    for network, names in version.layers.items():
        for name, mine in names.items():
            x, expected = (theirs[f"{network}/{part}/{name}"] for part in ("input", "output"))
            yield differ(network, "layer", mine, applied(ours[network].get_submodule(mine), x), expected)
    for network, names in version.blocks.items():
        for name, mine in names.items():
            x, expected = (theirs[f"{network}/{part}/{name}"] for part in ("input", "output"))
            if mine == "stem":
                out = generator.stem(pixel_norm(x) if version.generator.normalize_latent else x)
            elif mine == "head":
                mine, x, expected = "final and head", x[version.order], expected[version.order]
                x = leaky(critic.final(minibatch_stddev(x, critic.stddev_group_size)))
                embedding = theirs[f"{network}/embedding/{name}"][version.order, : version.embedding_size]
                out = critic.logits(critic.head.features(x), embedding)
            else:
                out = ours[network].get_submodule(mine)(x)
            yield differ(network, "block", mine, out, expected)
    for case in sorted({key.rsplit("/", 1)[0] for key in theirs if key.startswith("case/")}, key=_resolution_of):
        resolution, alpha = _resolution_of(case), float(case.split("/")[2])
        latent, real, embedding, image, logits = (
            theirs[f"{case}/{key}"][version.order] for key in ("latent", "real", "embedding", "image", "logits")
        )
        name = f"{resolution} px, alpha {alpha}"
        (drawn,) = generator(latent[:, :0], latent, resolution, alpha, torch.zeros(len(latent), dtype=torch.int64))
        yield differ("generator", "whole", name, drawn, image)
        score = critic.logits(critic.features((real,), resolution, alpha), embedding[:, : version.embedding_size])
        yield differ("critic", "whole", name, score, logits)


def _resolution_of(case: str) -> int:
    return int(case.split("/")[1])


# The table


def scales(version: Version, theirs: dict[str, Tensor], ours: dict[str, nn.Module]) -> dict[str, list[float]]:
    """Kind of layer -> their scale divided by ours, of each: what the two differ by when training begins."""
    found: dict[str, list[float]] = {}
    for network, names in version.layers.items():
        for name, mine in names.items():
            layer = ours[network].get_submodule(mine)
            assert isinstance(layer, (EqualizedConv2d, EqualizedLinear))
            ratio = theirs[f"{network}/scale/{name}"].item() / layer.scale
            found.setdefault(mine if mine.startswith(("stem", "head")) else mine.split(".")[0], []).append(ratio)
    return found


def counted(ours: dict[str, nn.Module]) -> dict[str, int]:
    return {name: sum(p.numel() for p in network.parameters()) for name, network in ours.items()}


def rows(number: str, differences: list[Difference], counts: dict[str, int], metadata: dict[str, str]) -> list[str]:
    lines = []
    for network in ("generator", "critic"):
        cells = []
        for what in ("layer", "block", "whole"):
            of_kind = [d for d in differences if (d.network, d.what) == (network, what)]
            cells.append(f"{len(of_kind)}: {max(d.largest for d in of_kind):.1e}")
        lines.append(
            f"| {number} | {network} | {' | '.join(cells)} | {int(metadata[network]):,} | {counts[network]:,} |"
        )
    return lines


@click.command()
def main() -> None:
    """Compare, print every difference, and write the table into benchmarks/README.md."""
    header = ["version", "network", "layers", "blocks", "whole", "their parameters", "our parameters"]
    table = ["| " + " | ".join(header) + " |", "| --- | --- |" + " ---: |" * 5]
    exceeding = []
    for version in (conditional(), unconditional()):
        assert version.number in PACKAGES
        theirs, metadata = dumped(version.number)
        with torch.no_grad():
            ours = built(version, theirs)
            differences = list(compared(version, theirs, ours))
        for d in differences:
            click.echo(f"{version.number:8} {d.network:9} {d.what:5} {d.name:22} {d.largest:.1e} of {d.magnitude:.2g}")
        for kind, ratios in scales(version, theirs, ours).items():
            click.echo(f"{version.number:8} scale of {kind:14} theirs / ours: {min(ratios):.4f} to {max(ratios):.4f}")
        exceeding += [d for d in differences if not d.largest <= TOLERANCE]
        table += rows(version.number, differences, counted(ours), metadata)
    stamp = f"torch {torch.__version__}, CPU, float32; {time.strftime('%F')}."
    lines = [f"{stamp} Number compared: largest absolute difference.", "", *table]
    click.echo("\n".join(lines))
    section.write("parity", lines)
    if exceeding:
        click.echo(f"{len(exceeding)} differ by more than {TOLERANCE}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
