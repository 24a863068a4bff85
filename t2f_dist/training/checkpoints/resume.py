"""Going on from an archive: find its newest valid checkpoint, and make sure that it is of this run."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from t2f_dist.config.schema import Config
from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.checkpoints.archive import READINGS, Archive
from t2f_dist.training.checkpoints.last_save import LastSave
from t2f_dist.training.checkpoints.stored import DamagedCheckpoint, Stored, moment, named
from t2f_dist.training.gan import Gan
from t2f_dist.training.launch.ranks import Ranks

# What may differ from the run that wrote the checkpoint: it changes where and how a run is carried out and watched,
# not its weights. (Accumulation changes the order of sums, and nothing else.)
MAY_DIFFER = (
    "run",
    "log",
    "wandb",
    "snapshot",
    "checkpoint",
    "data.shards",
    "data.vocabulary",  # its words are a part of the fingerprint
    "data.buffer_samples",
    "data.cache_dir",
    "data.cache_bytes",
    "data.num_workers",
    "data.max_damaged_fraction",
    "warm_start",
    "train.timeout_seconds",
    "train.fingerprint_every_images",
    "train.skipped_steps_max",
    "train.batch_per_gpu_max",
)


def resume(
    archive: Archive, gan: Gan, config: Config, dataset: str, ranks: Ranks, beat: Callable[[], object] | None = None
) -> int:
    """Fill `gan` from the newest valid checkpoint of the archive; the images seen, 0 for a start. All ranks call.

    `beat` is called as long as reading gets on. Every rank reads the files itself. Raises ValueError, with `gan` as it
    was, where the checkpoint is of another configuration or other shards, naming what differs, and on all ranks where
    the run had saved one and there is none; OSError where the archive cannot be read, or this rank reads something else
    than the main rank.
    """
    progress = None if beat is None else lambda _: beat()
    stored: Stored | None = None
    images, attempt, lost = -1, 0, -1
    if ranks.is_main:
        stored = archive.newest_valid(lambda line: click.echo(f"warning: {line}", err=True), progress)
        if stored is not None:
            images, attempt = moment(stored.name)
        elif (before := LastSave.read(Path(config.run))) is not None:
            lost = before.images
    images, attempt, lost = (ranks.broadcast(number) for number in (images, attempt, lost))
    if lost >= 0:
        raise ValueError(_none_there(archive, config, lost))
    if images < 0:
        return 0
    name = named(images, attempt)
    path = archive.at(name)
    try:
        stored = stored or archive.read(name, READINGS, progress)
    except DamagedCheckpoint as error:  # the main rank read it right: another try may well succeed
        raise OSError(
            f"checkpoint {path} is damaged as rank {ranks.rank} on {socket.gethostname()} reads it, and not as rank 0"
            f" does: {error}; see whether all hosts have the same disk there"
        ) from None
    state = checkpoint.state_of(stored)
    _compare(state, config, dataset, path)  # before anything is filled: shapes and scalers follow from the keys
    checkpoint.fill(gan, stored, path)
    return state.images_seen


def _none_there(archive: Archive, config: Config, images: int) -> str:
    saved = LastSave.read(Path(config.run))
    where = f" in {saved.place}" if saved else ""
    return (
        f"{config.run} had saved {images:,} images{where}, and {archive} holds no checkpoint: mount it, name it with"
        " checkpoint.folder, or name another folder with --run"
    )


def _compare(state: checkpoint.State, config: Config, dataset: str, path: str) -> None:
    """Raise ValueError where a checkpoint is of another run."""
    before, now = state.config, config.model_dump(mode="json")
    if before.get("stages") and len(before["stages"]) == len(now["stages"]):
        before, now = _without_end(before), _without_end(now)
    differing = differences(before, now)
    if differing:
        raise ValueError(
            f"{path} was trained with another configuration: {'; '.join(differing)}."
            " Give the former values, or name another folder with --run"
        )
    if state.dataset != dataset:
        raise ValueError(
            f"{path} was trained on other shards than {config.data.shards}: name those, or another folder with --run"
        )


def _without_end(values: dict[str, Any]) -> dict[str, Any]:
    """The configuration but for how long its last stage lasts: a run may be prolonged or ended earlier."""
    *stages, last = values["stages"]
    return values | {"stages": [*stages, {key: value for key, value in last.items() if key != "stable_images"}]}


def differences(before: Any, now: Any, place: str = "") -> list[str]:
    """`key was x, now y` for each value that differs, apart from those in MAY_DIFFER.

    Of sections of different kinds, the kinds alone: what else they hold follows from that.
    """
    if place in MAY_DIFFER or before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        kinds = "kind" in before and "kind" in now and before["kind"] != now["kind"]
        found = []
        for key in ["kind"] if kinds else sorted(before.keys() | now.keys()):
            found += differences(before.get(key), now.get(key), f"{place}.{key}" if place else str(key))
        return found
    if isinstance(before, list) and isinstance(now, list):
        pairs = enumerate(zip(before, now, strict=False))
        found = [line for index, (a, b) in pairs for line in differences(a, b, f"{place}.{index}")]
        if len(before) != len(now):
            found.append(f"{place} has {len(now)} {'entry' if len(now) == 1 else 'entries'}, was {len(before)}")
        return found
    return [f"{place} was {_shown(before)}, now {_shown(now)}"]


def _shown(value: Any) -> str:
    """As YAML writes it; of a whole section its kind at most."""
    if isinstance(value, dict):
        return f"{{kind: {value['kind']}, ...}}" if "kind" in value else "{...}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return value if isinstance(value, str) and value else json.dumps(value)
