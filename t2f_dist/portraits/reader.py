"""Reads the attributes of portraits back from pixels, so that generated faces can be measured without anyone's
pretrained network.

A small convolutional network, trained on drawn portraits only (reader_training.py), its weights shipped beside this
file. It is an instrument of evaluation and is never used in training. To make the weights again:

    python -m t2f_dist.portraits.reader_training --seed 0 --out reader.safetensors
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from t2f_dist.portraits.attributes import ABSENT, ATTRIBUTES

WEIGHTS = Path(__file__).with_name("reader.safetensors")
RESOLUTION = 32
NUM_FEATURES = 48


class Network(nn.Module):
    """[N, 3, 32, 32] in [-1, 1] -> logits of all attributes side by side [N, 28]. 54 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # torch fills new layers from its global generator: leave that alone
            self._build()

    def _build(self) -> None:
        layers: list[nn.Module] = []
        width = 3
        for channels, stride in ((16, 1), (32, 2), (40, 2), (32, 2)):
            convolution = nn.Conv2d(width, channels, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
            width = channels
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 16, NUM_FEATURES), nn.ReLU())
        self.logits = nn.Linear(NUM_FEATURES, sum(len(values) for values in ATTRIBUTES.values()))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


def prepared(images: Tensor) -> Tensor:
    """[N, 3, H, W] uint8, or float in [-1, 1] -> float32 [N, 3, 32, 32] in [-1, 1], by an area filter.

    Raises ValueError unless the images are RGB, square and at least 16 pixels wide.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.shape[2] < 16:
        raise ValueError(f"the reader takes square images [N, 3, H, W] of at least 16 pixels, got {list(images.shape)}")
    if images.dtype == torch.uint8:
        images = images.float() / 127.5 - 1
    elif images.is_floating_point():
        images = images.float().clamp(-1, 1)
    else:
        raise ValueError(f"the reader takes uint8 images, or float in [-1, 1], got {images.dtype}")
    if images.shape[2] < RESOLUTION:
        return F.interpolate(images, size=RESOLUTION, mode="bilinear", align_corners=False)
    return images if images.shape[2] == RESOLUTION else F.interpolate(images, size=RESOLUTION, mode="area")


class Reader:
    """The trained network, in evaluation mode, on one device."""

    def __init__(self, network: Network, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._network = network.to(self.device).eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path | str = WEIGHTS, device: torch.device | str = "cpu") -> Reader:
        """The shipped reader, or the one at `path`.

        Raises FileNotFoundError when there is no such file, ValueError when it does not hold a reader.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"no reader at {path}: make one with `python -m t2f_dist.portraits.reader_training --out {path}`"
            )
        network = Network()
        try:
            loaded = network.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
        except Exception as error:  # safetensors and torch each have their own kinds
            raise ValueError(f"{path} does not hold a reader of portraits: {error}") from error
        missing = [name for name in loaded.missing_keys if not name.endswith("num_batches_tracked")]
        if missing or loaded.unexpected_keys:
            raise ValueError(f"{path} does not hold a reader of portraits: {[*missing, *loaded.unexpected_keys][:3]}")
        return cls(network, device)

    def save(self, path: Path | str) -> None:
        """Half precision, which changes no reading that is not a coin's toss."""
        state = {k: v for k, v in self._network.state_dict().items() if not k.endswith("num_batches_tracked")}
        save_file({name: value.half().cpu().contiguous() for name, value in state.items()}, path)

    @torch.no_grad()
    def read(self, images: Tensor, batch_size: int = 500) -> dict[str, Tensor]:
        """Attribute -> labels, LongTensor [N] on the CPU, of images [N, 3, H, W], uint8 or float in [-1, 1], of any
        size from 16 pixels. A label is the place in ATTRIBUTES[attribute]; the hair colour of a head that is read as
        bald is ABSENT. Raises ValueError as `prepared` does.
        """
        logits = [self._network(prepared(part.to(self.device))).cpu() for part in images.split(batch_size)]
        return labels(torch.cat(logits))

    @torch.no_grad()
    def features(self, images: Tensor, batch_size: int = 500) -> Tensor:
        """float32 [N, 48] on the CPU: the last layer before the labels, for distances between sets of portraits."""
        parts = images.split(batch_size)
        return torch.cat([self._network.features(prepared(part.to(self.device))).cpu() for part in parts])


def labels(logits: Tensor) -> dict[str, Tensor]:
    """The most probable label of each attribute. logits [N, 28] -> LongTensors [N]."""
    parts = logits.split([len(values) for values in ATTRIBUTES.values()], dim=1)
    read = {name: part.argmax(dim=1) for name, part in zip(ATTRIBUTES, parts, strict=True)}
    bald = read["hair_style"] == ATTRIBUTES["hair_style"].index("bald")
    read["hair_colour"] = read["hair_colour"].masked_fill(bald, ABSENT)
    return read
