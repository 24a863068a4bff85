"""What a face is drawn from: a caption, a voice, an identity, several of them, or nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from t2f_dist.config.load import Section
from t2f_dist.config.numbers import Fraction, NonNegativeFloat

MODALITIES = ("caption", "speech", "identity")  # in the order in which their embeddings stand side by side
# Of one layer over a voice; with the bounds of its length and of its frames, what a voice may take in memory.
Width = Annotated[int, Field(ge=1, le=4096)]


class Modality(Section):
    kind: str
    dropout: Fraction = 0.0  # withheld from this share of the samples in training, so that it may be missing later
    learning_rate_factor: PositiveFloat = 1.0  # of optimizer.condition's, for this encoder


class Lstm(Modality):
    """Captions by a learned LSTM over word embeddings (T2F; Hochreiter & Schmidhuber 1997)."""

    kind: Literal["lstm"] = "lstm"
    embedding_size: PositiveInt = 32
    hidden_size: PositiveInt = 32  # a direction
    num_layers: Annotated[int, Field(ge=1, le=8)] = 1
    bidirectional: bool = True
    pooling: Literal["mean", "last"] = "mean"


class Stored(Modality):
    """Caption embeddings that stand in the shards: of `t2f-dist shard --embed MODEL_DIR`, or of the corpus itself."""

    kind: Literal["stored"] = "stored"


class LogMel(Modality):
    """Voices by convolutions and a recurrent layer over a log-mel spectrogram."""

    kind: Literal["log_mel"] = "log_mel"
    # Of a longer voice, so much is heard, from a place drawn anew each time.
    seconds: Annotated[float, Field(gt=0, le=600)] = 4.0
    num_mels: Annotated[int, Field(ge=1, le=512)] = 40
    window_seconds: PositiveFloat = 0.025
    hop_seconds: Annotated[float, Field(ge=0.001)] = 0.01
    # A convolution each, which halves the frames.
    channels: Annotated[tuple[Width, ...], Field(max_length=8)] = (64, 64)
    hidden_size: Width = 32  # of the recurrent layer, a direction


class Waveform(Modality):
    """Voices by strided convolutions over the waveform (SEGAN, 1703.09452; wav2pix, 1903.10195)."""

    kind: Literal["waveform"] = "waveform"
    seconds: Annotated[float, Field(gt=0, le=60)] = 1.0  # heard; a shorter voice is masked
    # A convolution each, at stride 4.
    channels: Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)] = (16, 32, 128, 256, 512, 1024)
    hidden_sizes: Annotated[tuple[PositiveInt, ...], Field(max_length=8)] = (256, 128)  # of the fully connected layers
    size: PositiveInt = 128
    pre_emphasis: Fraction = 0.95


class OneHot(Modality):
    """The identity itself, one unit each."""

    kind: Literal["one_hot"] = "one_hot"


class Condition(Section):
    """What the generator is told and the discriminator checks. All null: an unconditional GAN."""

    caption: Annotated[Lstm | Stored, Field(discriminator="kind")] | None = None
    speech: Annotated[LogMel | Waveform, Field(discriminator="kind")] | None = None
    identity: OneHot | None = None
    trained_by: Literal["discriminator", "generator"] = "discriminator"  # whose loss trains the encoders

    @property
    def modalities(self) -> dict[str, Modality]:
        """Those in use, by name, in order."""
        each = {name: getattr(self, name) for name in MODALITIES}
        return {name: modality for name, modality in each.items() if modality is not None}

    @model_validator(mode="after")
    def _dropout_leaves_something(self) -> Condition:
        if len(self.modalities) == 1:
            ((name, modality),) = self.modalities.items()
            if modality.dropout:
                raise ValueError(
                    f"{name}.dropout withholds one of several modalities, and {name} is the only one: set it to 0"
                )
        return self


class Augmentation(Section):
    """Conditioning augmentation (StackGAN, 1612.03242, section 3.2): the condition is drawn around the embedding."""

    kind: Literal["augmentation"] = "augmentation"
    size: PositiveInt = 32
    kl_weight: NonNegativeFloat = 0.01


class Projection(Section):
    """A linear layer, batch normalisation and a leaky rectifier (Reed et al. 2016, 1605.05396)."""

    kind: Literal["projection"] = "projection"
    size: PositiveInt = 128


class Direct(Section):
    """The embedding as it is."""

    kind: Literal["direct"] = "direct"
