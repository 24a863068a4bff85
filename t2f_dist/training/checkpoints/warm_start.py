"""Weights to begin with: of another run, or of a snapshot that somebody gave."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2f_dist.config.condition import Lstm, Stored
from t2f_dist.config.schema import Config
from t2f_dist.models import snapshot
from t2f_dist.models.snapshot import Corpus
from t2f_dist.storage import url
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.checkpoint import read_tensors
from t2f_dist.training.checkpoints.stored import NETWORKS, DamagedCheckpoint
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
        weights = _discriminator(config.warm_start.discriminator)
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


def _discriminator(given: str) -> dict[str, Tensor]:
    """Of the newest checkpoint of a run, of a folder of checkpoints, or of one; a folder or a URL."""
    what = f"warm_start.discriminator {url.shown(given)}"
    remedy = "name the folder of a run, or of one of its checkpoints (a snapshot will not do, it has no discriminator)"
    path = url.local(given)
    if path is not None and not path.is_dir():
        raise ValueError(f"{what} is no folder: {remedy}")
    archive, name = _place(given)
    if name is None:
        raise ValueError(f"{what} holds no checkpoint, or a damaged one: state.json is missing; {remedy}")
    try:
        tensors = read_tensors(archive.read(name), NETWORKS)
    except DamagedCheckpoint as error:
        raise ValueError(f"{what} holds no checkpoint, or a damaged one: {error}; {remedy}") from None
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}


def _place(given: str) -> tuple[Archive, str | None]:
    """An archive, and the name of a checkpoint in it."""
    archive = Archive.named(given)
    if kept := archive.found():
        return archive, kept[0].name
    above, name = url.split(given.rstrip("/"))
    archive = Archive(above)
    return archive, name if any(each.name == name for each in archive.found()) else None


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
