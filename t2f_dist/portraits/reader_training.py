"""Training of the reader, on drawn portraits only, disturbed as generated ones are: soft, noisy, shifted, blocky."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from t2f_dist.portraits.attributes import ABSENT, ATTRIBUTES, Portrait, portrait
from t2f_dist.portraits.draw import draw
from t2f_dist.portraits.reader import RESOLUTION, Network, Reader, prepared

BATCH = 128
LEARNING_RATE = 6e-3


def held_out(person: Portrait) -> bool:
    """Whether this combination of attributes (one in ten) is kept from training, to measure the reader on."""
    return hashlib.sha256(person.identity.encode()).digest()[0] % 10 == 0


def drawn(people: list[Portrait], resolution: int) -> Tensor:
    """uint8 [N, 3, resolution, resolution]"""
    pictures = [
        draw(person, resolution)
        for person in tqdm(people, desc=f"drawing at {resolution} px", disable=len(people) < 5000)
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def targets(people: list[Portrait]) -> dict[str, Tensor]:
    """Attribute -> LongTensor [N] of labels."""
    return {name: torch.tensor([person.labels[name] for person in people]) for name in ATTRIBUTES}


def accuracy(reader: Reader, seed: int, num: int, resolution: int) -> dict[str, float]:
    """Attribute -> share read rightly of `num` portraits of held-out combinations; the hair colour of the bald is
    right when it is read as absent."""
    people, index = [], 0
    while len(people) < num:
        person = portrait(seed, index)
        people += [person] if held_out(person) else []
        index += 1
    read, truth = reader.read(drawn(people, resolution)), targets(people)
    return {name: (read[name] == truth[name]).double().mean().item() for name in ATTRIBUTES}


def train(seed: int, num: int, epochs: int) -> Reader:
    """A reader, a pure function of the arguments on one thread."""
    people = [person for person in (portrait(seed, index) for index in range(num)) if not held_out(person)]
    fine = len(people) // 5
    images = torch.cat([prepared(drawn(people[:fine], 2 * RESOLUTION)), prepared(drawn(people[fine:], RESOLUTION))])
    truth = targets(people)
    random = torch.Generator().manual_seed(seed)
    network = _initialised(Network(), random)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    sizes = [len(values) for values in ATTRIBUTES.values()]
    steps = epochs * (len(images) // BATCH)
    progress = tqdm(total=steps, desc="training the reader", unit="step")
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=random).split(BATCH):
            if len(chosen) < BATCH:
                continue
            done = progress.n / steps
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, done * 20) * (0.5 + 0.5 * math.cos(math.pi * done))
            logits = network(disturbed(images[chosen], random).contiguous(memory_format=torch.channels_last))
            parts = logits.split(sizes, dim=1)
            losses = [
                F.cross_entropy(part, truth[name][chosen], ignore_index=ABSENT)
                for name, part in zip(ATTRIBUTES, parts, strict=True)
            ]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            progress.update()
    progress.close()
    return Reader(network)


def _initialised(network: Network, random: torch.Generator) -> Network:
    """Weights from our own generator: the global one is never touched."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=random)
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def disturbed(images: Tensor, random: torch.Generator) -> Tensor:
    """Images [N, 3, 32, 32] in [-1, 1], shifted and scaled by up to 6 %, a little brighter or darker, and some of
    them blurred, at half the resolution, coarsely quantised in 8 x 8 blocks as JPEG does, or with noise."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    num = len(images)
    place = torch.zeros(num, 2, 3)
    place[:, 0, 0] = place[:, 1, 1] = 1 + 0.06 * (2 * uniform(num) - 1)
    place[:, :, 2] = 0.12 * (2 * uniform(num, 2) - 1)
    grid = F.affine_grid(place, [num, 3, RESOLUTION, RESOLUTION], align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    images = images * (1 + 0.05 * (2 * uniform(num, 1, 1, 1) - 1)) + 0.05 * (2 * uniform(num, 1, 1, 1) - 1)

    cut = num // 4
    images[:cut] = _blurred(images[:cut], 0.4 + 0.8 * uniform(1).item())
    images[cut // 2 : cut + cut // 2] = _quantised(images[cut // 2 : cut + cut // 2], 0.08 + 0.3 * uniform(1).item())
    small = F.avg_pool2d(images[2 * cut : 2 * cut + cut // 2], 2)
    images[2 * cut : 2 * cut + cut // 2] = F.interpolate(small, size=RESOLUTION, mode="bilinear", align_corners=False)
    amount = 0.12 * uniform(num, 1, 1, 1) * (uniform(num, 1, 1, 1) < 0.5)
    return images + amount * torch.randn(images.shape, generator=random)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 7)
    rows = F.conv2d(F.pad(images, (3, 3, 3, 3), mode="replicate"), kernel, groups=3)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=3)


def _quantised(images: Tensor, step: float) -> Tensor:
    """The discrete cosine transform of each 8 x 8 block rounded to multiples of `step`, finer for low frequencies."""
    order = torch.arange(8.0)
    basis = torch.cos(math.pi / 8 * (order[None] + 0.5) * order[:, None]) * 0.5
    basis[0] /= math.sqrt(2)
    blocks = images.unfold(2, 8, 8).unfold(3, 8, 8)  # [N, 3, 4, 4, 8, 8]
    coarse = step * (0.3 + (order[None] + order[:, None]) / 7)
    blocks = basis.T @ ((basis @ blocks @ basis.T / coarse).round() * coarse) @ basis
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(images.shape)


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Weights to write.")
@click.option("--seed", default=0, show_default=True, help="Seed of the portraits, the weights and the noise.")
@click.option("--num", default=24000, show_default=True, help="Portraits to draw; a fifth of them at 64 pixels.")
@click.option("--epochs", default=20, show_default=True, help="Passes over them.")
def main(out: Path, seed: int, num: int, epochs: int) -> None:
    """Train the reader of attributes on drawn portraits: four minutes on one thread, and on one machine the same
    bytes for the same seed.

    A tenth of the combinations of attributes is never trained on, and the accuracy that is printed is measured on
    those. Needs nothing but this package: no network, no GPU, no data.
    """
    torch.set_num_threads(1)
    train(seed, num, epochs).save(out)
    for resolution in (32, 64):
        right = accuracy(Reader.load(out), seed + 1, 2000, resolution)
        print(f"held out, {resolution} px: " + " ".join(f"{name} {share:.4f}" for name, share in right.items()))


if __name__ == "__main__":
    main()
