"""Every field of a training configuration: one YAML file a run, every key typed, units in the names.

What changes the weights stands here; what changes only where a run takes place stands in `launch/`. Batch sizes are
global: they are shared out over the ranks, and never depend on how many there are. Time is counted in images shown
to the discriminator.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from t2f_dist.config.load import Section

NonNegativeFloat = Annotated[float, Field(ge=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
RESOLUTIONS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Data(Section):
    """Which shards are read, and how a position in the stream becomes a sample."""

    shards: str  # folder that holds manifest.json
    split: Literal["train", "validation", "test"] = "train"
    shuffle_window_shards: PositiveInt = 16  # samples are shuffled within this many shards; shards over the epoch
    flip: bool = False  # mirror half of the images
    max_words: PositiveInt = 100  # a longer caption is cut
    mismatch_candidates: PositiveInt = 1  # the mismatched caption is the nearest in words of this many
    num_workers: NonNegativeInt = 2  # loader processes a rank; 0 reads in the training process
    max_damaged_fraction: Fraction = 0.001  # of images read; past it the run stops


class TextEncoder(Section):
    """LSTM over word embeddings (T2F; Hochreiter & Schmidhuber 1997)."""

    embedding_size: PositiveInt = 32
    hidden_size: PositiveInt = 32  # a direction
    num_layers: PositiveInt = 1
    bidirectional: bool = True
    pooling: Literal["mean", "last"] = "mean"
    trained_by: Literal["discriminator", "generator"] = "discriminator"

    @property
    def output_size(self) -> int:
        """Width of the caption embedding."""
        return self.hidden_size * (2 if self.bidirectional else 1)


class Conditioning(Section):
    """Conditioning augmentation (StackGAN, 1612.03242, section 3.2): the condition is drawn around the embedding."""

    size: PositiveInt = 32
    kl_weight: NonNegativeFloat = 0.01


class Generator(Section):
    z_size: PositiveInt = 48
    channels: tuple[PositiveInt, ...]  # one a resolution: 4, 8, 16, ...
    convs_per_block: Literal[1, 2] = 2


class Discriminator(Section):
    channels: tuple[PositiveInt, ...]  # one a resolution: 4, 8, 16, ...
    convs_per_block: Literal[1, 2] = 2
    halving: Literal["pool", "stride"] = "pool"  # of the image's size: average pooling, or a convolution at stride 2
    stddev_group_size: PositiveInt = 4  # minibatch standard deviation over this many consecutive positions
    head: Literal["concat", "projection"] = "projection"
    head_size: PositiveInt = 128  # width to which the caption embedding is compressed or projected


class Penalty(Section):
    """Gradient penalty on the discriminator; `every_images` makes it lazy, its weight then grows to match."""

    kind: Literal["none", "r1", "wgan_gp"] = "r1"
    weight: NonNegativeFloat = 0.5  # gamma of R1 (1801.04406, equation 9), lambda of WGAN-GP (1704.00028, equation 3)
    every_images: PositiveInt = 1  # 1 = each step


class Contrastive(Section):
    """InfoNCE between image and caption features (XMC-GAN, 2101.04702) within groups of consecutive positions."""

    discriminator_weight: NonNegativeFloat = 0.0  # on reals
    generator_weight: NonNegativeFloat = 0.0  # on fakes
    size: PositiveInt = 64
    temperature: PositiveFloat = 0.1
    group_size: PositiveInt = 16
    hard_negatives: bool = True  # each image also meets the mismatched captions of its group

    @property
    def used(self) -> bool:
        return self.discriminator_weight > 0 or self.generator_weight > 0


class Loss(Section):
    adversarial: Literal["non_saturating", "wgan"] = "non_saturating"
    drift_weight: NonNegativeFloat = 0.0
    matching_weight: NonNegativeFloat = 1.0  # real image with a mismatched caption counts as fake (1605.05396)
    penalty: Penalty = Penalty()
    contrastive: Contrastive = Contrastive()


class Adam(Section):
    learning_rate: PositiveFloat = 1e-3
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    eps: PositiveFloat = 1e-8


class Optimizer(Section):
    generator: Adam = Adam()
    discriminator: Adam = Adam()
    text_encoder: Adam = Adam()


class Stage(Section):
    """One resolution: faded in over `fade_images`, then held for `stable_images`.

    A further stage of the same resolution changes the batch size or the learning rates.
    """

    resolution: Literal[4, 8, 16, 32, 64, 128, 256, 512, 1024]
    fade_images: NonNegativeInt = 0
    stable_images: NonNegativeInt
    batch_size: PositiveInt  # global
    learning_rate_factor: PositiveFloat = 1.0  # of the optimizers' learning rates

    @property
    def num_images(self) -> int:
        return self.fade_images + self.stable_images


class Ema(Section):
    """Moving average of the generator's weights, by images: after `half_life_images` an old weight counts half.

    While few images have been shown, the half-life is `ramp_fraction` of them, so that early weights are forgotten.
    """

    half_life_images: PositiveInt = 10_000
    ramp_fraction: Annotated[float, Field(gt=0, le=1)] | None = 0.1  # null: no ramp


class Train(Section):
    precision: Literal["fp64", "fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    batch_per_gpu_max: PositiveInt | None = None  # a rank's larger share is accumulated in equal parts
    timeout_seconds: PositiveInt = 600  # a collective that takes longer ends the run


class Log(Section):
    every_images: PositiveInt = 5_000
    grid_every_images: PositiveInt = 50_000
    grid_captions: PositiveInt = 8  # rows: captions of the validation split (of the training split where it is empty)
    grid_images: PositiveInt = 8  # columns: faces a caption


class Wandb(Section):
    """`auto` is online where a key is found, else offline."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "t2f-dist"
    entity: str | None = None
    name: str | None = None  # default: the name of the run's folder
    tags: tuple[str, ...] = ()


class Keep(Section):
    """When a file is written and how many of its kind are kept."""

    every_images: PositiveInt
    keep: Annotated[int, Field(ge=2)] = 2


class Config(Section):
    """One training run."""

    run: str = "runs/run"  # folder of the checkpoints, snapshots, logs and pictures
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Data
    text_encoder: TextEncoder = TextEncoder()
    conditioning: Conditioning = Conditioning()
    generator: Generator
    discriminator: Discriminator
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    stages: tuple[Stage, ...]
    ema: Ema = Ema()
    train: Train = Train()
    log: Log = Log()
    wandb: Wandb = Wandb()
    snapshot: Keep = Keep(every_images=100_000)
    checkpoint: Keep = Keep(every_images=50_000)

    @field_validator("stages")
    @classmethod
    def _stages_grow(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if not stages:
            raise ValueError("at least one stage is needed")
        for before, after in pairwise(stages):
            if after.resolution not in (before.resolution, 2 * before.resolution):
                raise ValueError(
                    f"the resolution doubles from stage to stage, or stays; {after.resolution} follows"
                    f" {before.resolution}"
                )
            if after.resolution == before.resolution and after.fade_images:
                raise ValueError(f"a second stage of resolution {after.resolution} has nothing to fade in")
        if stages[0].fade_images:
            raise ValueError("the first stage has nothing to fade from: set its fade_images to 0")
        for stage in stages:
            if not stage.num_images:
                raise ValueError(f"the stage at resolution {stage.resolution} shows no image: raise stable_images")
        return stages

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        needed = RESOLUTIONS.index(self.stages[-1].resolution) + 1
        for name, channels in (
            ("generator.channels", self.generator.channels),
            ("discriminator.channels", self.discriminator.channels),
        ):
            if len(channels) != needed:
                raise ValueError(
                    f"{name} has {len(channels)} entries; resolutions 4 to {self.stages[-1].resolution} need {needed}"
                )
        contrastive = self.loss.contrastive
        if contrastive.generator_weight and not contrastive.discriminator_weight:
            raise ValueError(
                "loss.contrastive.generator_weight without discriminator_weight follows a head that nothing trains:"
                " set discriminator_weight too"
            )
        if self.loss.adversarial != "wgan" and self.loss.penalty.kind == "wgan_gp":
            raise ValueError("loss.penalty.kind wgan_gp belongs to loss.adversarial wgan; use r1 or none")
        for stage in self.stages:
            if stage.batch_size % self.group_size:
                raise ValueError(
                    f"batch_size {stage.batch_size} at resolution {stage.resolution} must be a multiple of"
                    f" {self.group_size}, the images that a loss term compares with each other"
                    " (discriminator.stddev_group_size, loss.contrastive.group_size)"
                )
        return self

    @property
    def group_size(self) -> int:
        """Consecutive positions that no rank and no micro-batch may cut: the largest group of any loss term.

        Every group size in use divides it (checked here), so that cutting at its multiples cuts no group.
        """
        sizes = [self.discriminator.stddev_group_size]
        if self.loss.contrastive.used:
            sizes.append(self.loss.contrastive.group_size)
        if max(sizes) % min(sizes):
            raise ValueError(
                f"discriminator.stddev_group_size {sizes[0]} and loss.contrastive.group_size {sizes[-1]}:"
                " one must divide the other"
            )
        return max(sizes)

    @property
    def total_images(self) -> int:
        """Images shown by the end of the last stage."""
        return sum(stage.num_images for stage in self.stages)
