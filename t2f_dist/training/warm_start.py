"""Weights to begin with: of another run, or of a snapshot that somebody gave."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from t2f_dist.config.condition import Lstm, Stored
from t2f_dist.config.schema import Config
from t2f_dist.models import snapshot
from t2f_dist.models.snapshot import Corpus
from t2f_dist.training import checkpoint
from t2f_dist.training.gan import Gan

PREFIX = "networks.discriminator."


def warm_start(gan: Gan, config: Config, corpus: Corpus) -> list[str]:
    """Fill the networks that `config.warm_start` names. All ranks call; each reads the files itself.

    corpus: of the shards that are trained on. Returns a line for each network, which says where it comes from. The
    discriminator comes without the encoders and heads that it learnt with.
    Raises ValueError where there are no such weights, or they are damaged, of other shapes or of another corpus.
    """
    lines = []
    if config.warm_start.generator is not None:
        what = f"warm_start.generator {config.warm_start.generator}"
        try:
            given = snapshot.load(config.warm_start.generator)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"{what}: {error}; name a snapshot, or the folder of a run that has one") from None
        _check_kinds(config, given, what)
        _check_corpus(gan, config, corpus, given, what)
        for network in (gan.networks.generator, gan.generator_ema):
            _fill(network, given.generator.state_dict(), what)
        lines.append(f"generator from {config.warm_start.generator}, at {given.images_seen:,} images")
    if config.warm_start.discriminator is not None:
        weights = _discriminator(Path(config.warm_start.discriminator))
        _fill(gan.networks.discriminator, weights, f"warm_start.discriminator {config.warm_start.discriminator}")
        lines.append(f"discriminator from {config.warm_start.discriminator}")
    return lines


def _check_kinds(config: Config, given: snapshot.Snapshot, what: str) -> None:
    """Raise ValueError where the networks are of other kinds, before their weights are compared one by one."""

    def kinds(of: Config) -> dict[str, object]:
        modalities = {f"condition.{name}": section.kind for name, section in of.condition.modalities.items()}
        return {"generator.kind": of.generator.kind, "conditioning.kind": of.conditioning.kind, **modalities}

    ours, theirs = kinds(config), kinds(given.config)
    for key in [*ours, *theirs]:
        if ours.get(key) != theirs.get(key):
            raise ValueError(
                f"{what} is another network: {key} is {theirs.get(key, 'missing')} there and"
                f" {ours.get(key, 'missing')} here"
            )


def _check_corpus(gan: Gan, config: Config, corpus: Corpus, given: snapshot.Snapshot, what: str) -> None:
    """Raise ValueError where weights of the right shape would be read with something else than they learnt with."""
    used, theirs = config.condition.modalities, given.corpus
    caption, rate = used.get("caption"), given.facts.sample_rate_hz
    # What it never learnt with, it has no weights for: a question of shape.
    other = {
        "vocabulary": isinstance(caption, Lstm) and theirs.vocabulary not in ("", corpus.vocabulary),
        "model of caption embeddings": isinstance(caption, Stored) and theirs.embedding not in (None, corpus.embedding),
        "sample rate of voices": "speech" in used and rate not in (0, gan.facts.sample_rate_hz),
        "list of identities": "identity" in used and theirs.identities not in ((), corpus.identities),
    }
    for thing, differs in other.items():
        if differs:
            raise ValueError(
                f"{what} was trained with another {thing} than that of {config.data.shards}: name a snapshot that was"
                " trained on these shards, or set warm_start.generator null"
            )


def _discriminator(path: Path) -> dict[str, Tensor]:
    remedy = "name the folder of a run, or of one of its checkpoints (a snapshot will not do, it has no discriminator)"
    if not path.is_dir():
        raise ValueError(f"warm_start.discriminator {path} is no folder: {remedy}")
    kept = checkpoint.found(path / "checkpoints")
    folder = kept[0] if kept else path
    try:
        checkpoint.read_state(folder)
        tensors = safetensors.torch.load_file(folder / "networks.safetensors")
    except checkpoint.DamagedCheckpoint as error:
        raise ValueError(
            f"warm_start.discriminator {path} holds no checkpoint, or a damaged one: {error}; {remedy}"
        ) from None
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}


@torch.no_grad()
def _fill(network: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    own = network.state_dict()
    for name in [*own, *weights]:
        ours, theirs = own.get(name), weights.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [list(each.shape) if each is not None else "missing" for each in (theirs, ours)]
            raise ValueError(
                f"{what} is of another shape: {name} is {shapes[0]} there and {shapes[1]} here; give the networks and"
                " the condition the sizes with which it was trained"
            )
    for name, tensor in own.items():
        tensor.copy_(weights[name])
