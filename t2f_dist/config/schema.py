"""Every field of a training configuration: one YAML file a run, every key typed, units in the names.

The sections of the networks, the condition and the losses stand in files of their own. What changes the weights stands
here; what changes only where a run takes place stands in `launch/`. Batch sizes are global: they are shared out over
the ranks, and never depend on how many there are. Time is counted in images shown to the discriminator.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from t2f_dist.config.condition import Augmentation, Condition, Direct, OneHot, Projection, Stored, Waveform
from t2f_dist.config.load import Section
from t2f_dist.config.loss import Ada, DiffAugment, Loss
from t2f_dist.config.networks import (
    RESOLUTIONS,
    Dcgan,
    DcganCritic,
    Msggan,
    MsgganCritic,
    Progan,
    ProganCritic,
)
from t2f_dist.config.numbers import Fraction, NonNegativeInt


class Data(Section):
    """Which shards are read, and how a position in the stream becomes a sample."""

    shards: str  # folder or URL that holds manifest.json; or tars to stream: a path or URL, with braces for several
    vocabulary: str | None = None  # of tars that are streamed: the file of their words, a vocabulary.json
    buffer_samples: PositiveInt = 1000  # of tars that are streamed: each loader process shuffles so many at a time
    split: Literal["train", "validation", "test"] = "train"
    shuffle_window_shards: PositiveInt = 16  # samples are shuffled within this many shards; shards over the epoch
    flip: bool = False  # mirror half of the images
    max_words: PositiveInt = 100  # a longer caption is cut
    mismatch_candidates: PositiveInt = 1  # the mismatched sample is the nearest in words of this many
    lanes: PositiveInt = 1  # fixed parts of the shards, of which a node reads its own; a multiple of the nodes
    cache_dir: str | None = None  # of remote shards, on a disk of the node; null: in the home folder's cache
    cache_bytes: PositiveInt = 50_000_000_000  # at most, for all ranks of a node
    num_workers: NonNegativeInt = 2  # loader processes a rank; 0 reads in the training process
    max_damaged_fraction: Fraction = 0.001  # of images read; past it the run stops


class BatchNorm(Section):
    """Batch normalisation, wherever a network has it, is over groups of consecutive positions: however many ranks
    share a batch, the statistics are the same."""

    group_size: Annotated[int, Field(ge=2)] = 16
    momentum: Fraction = 0.1  # a step's share in the running statistics with which a snapshot draws


class Adam(Section):
    learning_rate: PositiveFloat = 1e-3
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.0
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    eps: PositiveFloat = 1e-8


class Optimizer(Section):
    generator: Adam = Adam()
    discriminator: Adam = Adam()
    condition: Adam = Adam()  # of the encoders


class Turns(Section):
    """Steps of the discriminator to one of the generator: 1 is a turn each.

    The published WGAN code begins with many more, for some steps of the generator and again at intervals.
    """

    discriminator_steps: PositiveInt = 1
    warm_up_discriminator_steps: PositiveInt = 100
    warm_up_generator_steps: NonNegativeInt = 0  # the first so many
    warm_up_every_generator_steps: NonNegativeInt = 0  # and each so-many-th one; 0: none


class WarmStart(Section):
    """Weights to begin with, of networks of the same shape; a run that resumes does not look at them."""

    generator: str | None = None  # a snapshot, or the folder of a run
    discriminator: str | None = None  # the folder of a run, or of one of its checkpoints


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
    timeout_seconds: PositiveInt = 300  # where nothing moves for so long, the run ends and says which rank hangs
    fingerprint_every_images: PositiveInt = 50_000  # weights and moments are compared over the ranks
    skipped_steps_max: PositiveInt = 8  # in a row, of a network whose loss or gradient is no finite number


class Log(Section):
    every_images: PositiveInt = 5_000
    grid_every_images: PositiveInt = 50_000
    grid_rows: PositiveInt = 8  # conditions of the validation split (of the training split where it is empty)
    grid_images: PositiveInt = 8  # columns: faces a condition
    held_out_images: NonNegativeInt = 64  # of either split, whose scores by the discriminator are compared


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


class Checkpoint(Keep):
    """Of those written, the newest `keep` stay, and all that are younger than `keep_hours`."""

    keep_hours: Annotated[float, Field(ge=0)] = 0.0
    folder: str | None = None  # path or URL; null: `checkpoints` in the run's folder


class Config(Section):
    """One training run."""

    run: str = "runs/run"  # folder of the checkpoints, snapshots, logs and pictures
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Data
    condition: Condition = Condition()
    conditioning: Annotated[Augmentation | Projection | Direct, Field(discriminator="kind")] = Direct()
    generator: Annotated[Progan | Msggan | Dcgan, Field(discriminator="kind")]
    discriminator: Annotated[ProganCritic | MsgganCritic | DcganCritic, Field(discriminator="kind")]
    loss: Loss = Loss()
    augment: Annotated[Ada | DiffAugment, Field(discriminator="kind")] | None = None
    warm_start: WarmStart = WarmStart()
    optimizer: Optimizer = Optimizer()
    turns: Turns = Turns()
    batch_norm: BatchNorm = BatchNorm()
    stages: tuple[Stage, ...]
    ema: Ema = Ema()
    train: Train = Train()
    log: Log = Log()
    wandb: Wandb = Wandb()
    snapshot: Keep = Keep(every_images=100_000)
    checkpoint: Checkpoint = Checkpoint(every_images=50_000)

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
        last = self.stages[-1].resolution
        for name, network in (("generator", self.generator), ("discriminator", self.discriminator)):
            if network.resolution != last:
                change = RESOLUTIONS.index(last) - RESOLUTIONS.index(network.resolution)
                raise ValueError(
                    f"{name}.channels has {len(network.channels)} entries, for {network.resolution} pixels, and the"
                    f" last stage is of {last}: give {len(network.channels) + change}"
                )
            if not network.grows and any(s.resolution != last for s in self.stages):
                raise ValueError(f"{name}.kind {network.kind} does not grow: give every stage the resolution {last}")
        if (self.generator.kind == "msggan") != (self.discriminator.kind == "msggan"):
            raise ValueError(
                f"generator.kind {self.generator.kind} and discriminator.kind {self.discriminator.kind}: msggan draws"
                " and judges an image at every resolution, so both must be msggan, or neither"
            )
        if not self.generator.z_size and not self.condition.modalities:
            raise ValueError("generator.z_size is 0, and there is no condition: nothing to draw from; give z_size")
        self._check_condition()
        self._check_loss()
        for stage in self.stages:
            if stage.batch_size % self.group_size:
                raise ValueError(
                    f"batch_size {stage.batch_size} at resolution {stage.resolution} must be a multiple of"
                    f" {self.group_size}, the images that layers and loss terms compare with each other"
                    f" ({', '.join(self._group_sizes())})"
                )
            if stage.batch_size % self.data.lanes:
                raise ValueError(
                    f"batch_size {stage.batch_size} at resolution {stage.resolution} must be a multiple of data.lanes"
                    f" {self.data.lanes}, whose samples have equal parts in it"
                )
        return self

    def _check_condition(self) -> None:
        conditional = bool(self.condition.modalities)
        if conditional == (self.discriminator.head == "unconditional"):
            raise ValueError(
                f"discriminator.head {self.discriminator.head} with "
                + (
                    f"the condition {', '.join(self.condition.modalities)}: use concat or projection"
                    if conditional
                    else "no condition: use unconditional, or give condition.caption, .speech or .identity"
                )
            )
        if conditional:
            return
        if not isinstance(self.conditioning, Direct):
            raise ValueError(f"conditioning.kind {self.conditioning.kind} has no condition to work on: use direct")
        for name, used in (
            ("loss.matching.weight", self.loss.matching.weight),
            ("loss.matching.interpolation_weight", self.loss.matching.interpolation_weight),
            ("loss.contrastive.discriminator_weight", self.loss.contrastive.discriminator_weight),
            ("loss.identity.condition_weight", self.loss.identity.condition_weight),
        ):
            if used:
                raise ValueError(f"{name} is {used}, and there is no condition: set it to 0")

    def _check_loss(self) -> None:
        loss = self.loss
        if loss.contrastive.generator_weight and not loss.contrastive.discriminator_weight:
            raise ValueError(
                "loss.contrastive.generator_weight without discriminator_weight follows a head that nothing trains:"
                " set discriminator_weight too"
            )
        kinds = [penalty.kind for penalty in loss.penalties]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"loss.penalties names {max(kinds, key=kinds.count)} twice: give each kind once")
        if "wgan_gp" in kinds and loss.adversarial.kind != "wgan":
            raise ValueError("loss.penalties wgan_gp belongs to loss.adversarial.kind wgan; use r1 or r2")
        if kinds and self.discriminator.normalizes_batches:
            raise ValueError(
                f"loss.penalties {kinds[0]} asks for the gradient of each image alone, and batch normalisation in the"
                " discriminator mixes them: set discriminator.batch_norm false, or use loss.weight_clip instead"
            )
        self._check_without_effect()
        if loss.adversarial.real_label < 1 and loss.adversarial.kind not in ("non_saturating", "least_squares"):
            raise ValueError(
                f"loss.adversarial.real_label belongs to labels, and {loss.adversarial.kind} has none: set it to 1,"
                " or use non_saturating or least_squares"
            )

    def _check_without_effect(self) -> None:
        """Options that would silently do nothing, or other than they say."""
        loss, critic = self.loss, self.discriminator
        if loss.weight_clip is not None and not (isinstance(critic, DcganCritic) and not critic.spectral_norm):
            raise ValueError(
                f"loss.weight_clip {loss.weight_clip} is of weights that are used as they stand, and those of this"
                " discriminator are scaled first: use discriminator.kind dcgan without spectral_norm, or a penalty"
            )
        if loss.contrastive.queue_size and not loss.contrastive.used:
            raise ValueError(
                f"loss.contrastive.queue_size {loss.contrastive.queue_size} serves a term whose weights are 0:"
                " give discriminator_weight, or set it to 0"
            )
        if isinstance(self.augment, Ada) and loss.adversarial.kind not in ("non_saturating", "hinge", "least_squares"):
            raise ValueError(
                f"augment.kind ada reads the sign of scores, and those of loss.adversarial.kind {loss.adversarial.kind}"
                " have no zero: use diffaugment, or another kind"
            )
        learnt = [name for name, m in self.condition.modalities.items() if not isinstance(m, Stored | OneHot)]
        if loss.identity.condition_weight and not learnt:
            raise ValueError(
                "loss.identity.condition_weight trains encoders, and no encoder here is learnt: set it to 0"
            )
        if self.data.mismatch_candidates > 1 and self.condition.caption is None:
            raise ValueError(
                f"data.mismatch_candidates {self.data.mismatch_candidates} compares captions, and there are none:"
                " set it to 1"
            )

    def _group_sizes(self) -> dict[str, int]:
        sizes = {f"discriminator.{name}": size for name, size in self.discriminator.group_sizes.items()}
        sizes |= {f"loss.{name}": size for name, size in self.loss.group_sizes.items()}
        normalizing = (
            self.generator.normalizes_batches,
            self.discriminator.normalizes_batches,
            isinstance(self.conditioning, Projection),
            isinstance(self.condition.speech, Waveform),
            self.loss.identity.used,
        )
        return sizes | ({"batch_norm.group_size": self.batch_norm.group_size} if any(normalizing) else {})

    @property
    def group_size(self) -> int:
        """Consecutive positions that no rank and no micro-batch may cut: the largest group of any layer or term.

        Every group size in use divides it (checked here), so that cutting at its multiples cuts no group.
        """
        sizes = self._group_sizes()
        largest = max(sizes, key=lambda name: sizes[name], default="")
        for name, size in sizes.items():
            if sizes[largest] % size:
                raise ValueError(f"{name} {size} does not divide {largest} {sizes[largest]}: give one that does")
        return sizes.get(largest, 1)

    @property
    def total_images(self) -> int:
        """Images shown by the end of the last stage."""
        return sum(stage.num_images for stage in self.stages)

    @property
    def noise_size(self) -> int:
        """Unit normal numbers that conditioning augmentation takes for a sample."""
        return self.conditioning.size if isinstance(self.conditioning, Augmentation) else 0

    @property
    def kl_weight(self) -> float:
        return self.conditioning.kl_weight if isinstance(self.conditioning, Augmentation) else 0.0

    @property
    def needs_mismatched(self) -> frozenset[str]:
        """What a step looks at of a sample of another identity: its "condition", its "image", both, or nothing."""
        matching, contrastive = self.loss.matching, self.loss.contrastive
        needed = {matching.mismatched} if matching.weight else set()
        if matching.interpolation_weight or (contrastive.used and contrastive.hard_negatives):
            needed.add("condition")
        return frozenset(needed)
