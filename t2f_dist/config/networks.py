"""Generators and discriminators, a section a kind. A new architecture is a section here and a file in `models/`.

`channels` are from the smallest resolution on: 4, 8, 16, ... pixels.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from t2f_dist.config.load import Section
from t2f_dist.config.numbers import NonNegativeInt

RESOLUTIONS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
# Channels times pixels of a layer, 1 GiB an image in fp32: a few wide layers take little in a file, and all in memory.
LAYER_MAX = 2**28


class Network(Section):
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=len(RESOLUTIONS))]

    @field_validator("channels")
    @classmethod
    def _layers_fit(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        for width, resolution in zip(channels, RESOLUTIONS, strict=False):
            if width * resolution**2 > LAYER_MAX:
                raise ValueError(
                    f"{width:,} channels at {resolution} pixels are {width * resolution**2:,} numbers an image: give"
                    f" {LAYER_MAX // resolution**2:,} or fewer there"
                )
        return channels

    @property
    def widest(self) -> int:
        """Numbers an image of the largest layer: channels times pixels."""
        return max(width * resolution**2 for width, resolution in zip(self.channels, RESOLUTIONS, strict=False))

    @property
    def resolution(self) -> int:
        """Pixels of the largest image that so many widths draw or judge."""
        return 4 * 2 ** (len(self.channels) - 1)

    @property
    def grows(self) -> bool:
        """Whether it can draw or judge at less than its whole resolution."""
        return False

    @property
    def group_sizes(self) -> dict[str, int]:
        """Option -> consecutive positions that a layer compares with each other; batch normalisation apart."""
        return {}

    @property
    def normalizes_batches(self) -> bool:
        return False


class Strided(Network):
    """Of 4x4 convolutions at stride 2 (1511.06434): beyond the last of the `channels` there is one, to the image."""

    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=len(RESOLUTIONS) - 1)]
    batch_norm: bool = False  # over groups: see the root section
    spectral_norm: bool = False  # 1802.05957

    @property
    def resolution(self) -> int:
        return 4 * 2 ** len(self.channels)

    @property
    def normalizes_batches(self) -> bool:
        return self.batch_norm


# Generators


class Generator(Network):
    z_size: NonNegativeInt = 48

    @property
    def drops_out(self) -> bool:
        return False


class Progan(Generator):
    """Progressive growing (1710.10196)."""

    kind: Literal["progan"] = "progan"
    convs_per_block: Literal[1, 2] = 2
    normalize_latent: bool = False  # pixel normalisation of condition and z

    @property
    def grows(self) -> bool:
        return True


class Msggan(Generator):
    """Multi-scale gradients (1903.06048): an image at every resolution, all judged together."""

    kind: Literal["msggan"] = "msggan"
    normalize_latent: bool = True


class Dcgan(Strided, Generator):
    """Transposed convolutions at stride 2 (1511.06434); the last one draws the image, at twice the last resolution."""

    kind: Literal["dcgan"] = "dcgan"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dropout_of: Literal["channels", "elements"] = "channels"

    @property
    def drops_out(self) -> bool:
        return self.dropout > 0


# Discriminators


class ProganCritic(Network):
    kind: Literal["progan"] = "progan"
    convs_per_block: Literal[1, 2] = 2
    halving: Literal["pool", "stride"] = "pool"  # of the image's size: average pooling, or a convolution at stride 2
    from_rgb_activation: bool = False
    stddev_group_size: PositiveInt = 4  # minibatch standard deviation over this many consecutive positions
    head: Literal["concat", "projection", "unconditional"] = "projection"
    head_size: PositiveInt = 128  # width to which the condition's embedding is compressed or projected

    @property
    def grows(self) -> bool:
        return True

    @property
    def group_sizes(self) -> dict[str, int]:
        return {"stddev_group_size": self.stddev_group_size}


class MsgganCritic(Network):
    kind: Literal["msggan"] = "msggan"
    # Half of a block's channels are of the image of its resolution.
    channels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1, max_length=len(RESOLUTIONS))]
    stddev_group_size: PositiveInt = 4
    head: Literal["concat", "projection", "unconditional"] = "concat"
    head_size: PositiveInt = 128

    @property
    def group_sizes(self) -> dict[str, int]:
        return {"stddev_group_size": self.stddev_group_size}


class MinibatchDiscrimination(Section):
    """Improved Techniques for Training GANs, 1606.03498, section 3.2."""

    num_kernels: PositiveInt = 50
    kernel_size: PositiveInt = 5
    group_size: Annotated[int, Field(ge=2)] = 16
    scale: PositiveFloat = 1.0


class DcganCritic(Strided):
    """Convolutions at stride 2 down to 4x4, where the embedding joins (1605.05396, figure 2)."""

    kind: Literal["dcgan"] = "dcgan"
    minibatch_discrimination: MinibatchDiscrimination | None = None
    head: Literal["concat", "unconditional"] = "concat"
    head_size: PositiveInt | None = 128  # null: the embedding joins as it is

    @property
    def group_sizes(self) -> dict[str, int]:
        crowd = self.minibatch_discrimination
        return {"minibatch_discrimination.group_size": crowd.group_size} if crowd else {}
