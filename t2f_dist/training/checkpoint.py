"""Checkpoints: all that a run needs to go on as if it had never stopped.

A checkpoint is a folder `checkpoints/images-000000123456` with safetensors files and `state.json`, which holds the
sha256 of each file and a checksum of its own. It is written under a temporary name, synced and renamed, so that it is
there whole or not at all. The newest valid one is found by itself; a damaged one is skipped with a warning.

The random state is not in it: everything random is a function of the seed and `images_seen`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from t2f_dist.training.gan import Gan
from t2f_dist.training.side import Side

FORMAT = "t2f-dist-checkpoint"
VERSION = 2
NAME = re.compile(r"images-(\d{12})")


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is missing, or not what was written."""


@dataclass(frozen=True)
class State:
    """What is no tensor."""

    images_seen: int
    dataset: str  # fingerprint of the shards
    config: dict[str, Any]


def save(folder: Path, gan: Gan, state: State, keep: int) -> Path:
    """Write a checkpoint into `folder`, then delete all but the newest `keep` (at least 2). One rank calls.

    Raises OSError where the disk is full or gone; then no half checkpoint is left, and the older ones stay.
    """
    assert keep >= 2
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"images-{state.images_seen:012d}"
    temporary, aside = folder / f".{final.name}.tmp", folder / f".{final.name}.old"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        files = {}
        for name, tensors in (("networks", _networks(gan)), ("optimizers", _optimizers(gan))):
            content = safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()})
            _write(temporary / f"{name}.safetensors", content)
            files[f"{name}.safetensors"] = hashlib.sha256(content).hexdigest()
        scalers = {side.name: side.scaler.state_dict() for side in (gan.generator_side, gan.discriminator_side)}
        body = {"format": FORMAT, "version": VERSION, "files": files, "scalers": scalers, **asdict(state)}
        body["checksum"] = _checksum(body)
        _write(temporary / "state.json", json.dumps(body, indent=1).encode())
        _sync(temporary)
        if final.exists():  # of the same moment, and damaged perhaps: out of the way before it is deleted
            os.rename(final, aside)
        os.rename(temporary, final)
        shutil.rmtree(aside, ignore_errors=True)
        _sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in found(folder)[keep:]:
        shutil.rmtree(old)
    return final


def check_finite(gan: Gan, images_seen: int) -> None:
    """Raise ValueError where a weight is not finite: such a checkpoint would push out those to go back to.

    Weights are equal on all ranks, so that all raise together.
    """
    for name, tensor in _networks(gan).items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{name} is not finite at {images_seen:,} images, so no checkpoint is written: start anew in another"
                " folder (--run) with lower learning rates"
            )


def found(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, valid or not, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if NAME.fullmatch(path.name)), reverse=True)


def newest_valid(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files are what was written. One rank calls.

    Newer ones that are not are renamed to `damaged-...`, so that they do not count as kept; `warn` gets a line of each.
    None where there never was one. Raises ValueError where all are damaged, or the newest is of another version, and
    OSError where it cannot be read: a run must not begin again in silence.
    """
    candidates = found(folder)
    for path in candidates:
        try:
            read_state(path)
            return path
        except DamagedCheckpoint as error:
            aside = path.with_name(f"damaged-{path.name}-{os.getpid()}")
            os.rename(path, aside)
            warn(f"checkpoint {path} is damaged and skipped, kept as {aside.name}: {error}")
    if candidates:
        raise ValueError(f"all {len(candidates)} checkpoints in {folder} are damaged: name another folder with --run")
    return None


def load(path: Path, gan: Gan) -> State:
    """Fill `gan` from a checkpoint. Every rank calls, and reads the file itself.

    Raises ValueError where a file is damaged, or the networks are of other shapes.
    """
    try:
        body = read_state(path)
    except DamagedCheckpoint as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from None
    _fill(_networks(gan), safetensors.torch.load_file(path / "networks.safetensors"), path)
    stored = safetensors.torch.load_file(path / "optimizers.safetensors")
    for side in (gan.generator_side, gan.discriminator_side):
        _fill_optimizer(side, gan, stored)
        side.scaler.load_state_dict(body["scalers"][side.name])
    return State(**{name: body[name] for name in State.__dataclass_fields__})


def read_state(path: Path) -> dict[str, Any]:
    """state.json, checked with all files that it names. Raises DamagedCheckpoint, or ValueError for another version."""
    try:
        body = json.loads((path / "state.json").read_bytes())
        checksum = body.pop("checksum")
        kind = (body["format"], body["version"])
    except (FileNotFoundError, ValueError, KeyError, AttributeError) as error:
        raise DamagedCheckpoint(f"state.json is missing or unreadable ({type(error).__name__})") from None
    if checksum != _checksum(body):
        raise DamagedCheckpoint("state.json does not match its checksum")
    if kind != (FORMAT, VERSION):
        raise ValueError(
            f"checkpoint {path} is of format {kind[0]} version {kind[1]}, and this t2f-dist reads {FORMAT} version"
            f" {VERSION}: go on with the t2f-dist that wrote it, or name another folder with --run"
        )
    for name, sha256 in body["files"].items():
        try:
            with open(path / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise DamagedCheckpoint(f"{name} does not match its checksum")
        except FileNotFoundError:
            raise DamagedCheckpoint(f"{name} is missing") from None
    return body


def _networks(gan: Gan) -> dict[str, Tensor]:
    live = {f"networks.{name}": tensor for name, tensor in gan.networks.state_dict().items()}
    average = {f"generator_ema.{name}": tensor for name, tensor in gan.generator_ema.state_dict().items()}
    adaptive = gan.ada.state_dict() if gan.ada is not None else {}
    return {
        **{name: tensor.detach() for name, tensor in (live | average).items()},
        **{f"augment.{name}": tensor for name, tensor in adaptive.items()},
    }


def _named_parameters(side: Side, gan: Gan) -> dict[str, torch.nn.Parameter]:
    own = {id(parameter) for group in side.optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in gan.networks.named_parameters() if id(parameter) in own}


def _optimizers(gan: Gan) -> dict[str, Tensor]:
    """Adam's state by the name of its parameter; parameters of blocks not yet grown have none."""
    tensors = {}
    for side in (gan.generator_side, gan.discriminator_side):
        for name, parameter in _named_parameters(side, gan).items():
            for key, value in side.optimizer.state.get(parameter, {}).items():
                tensors[f"{name}/{key}"] = value.detach()
    return tensors


def _fill_optimizer(side: Side, gan: Gan, stored: dict[str, Tensor]) -> None:
    side.optimizer.state.clear()
    for name, parameter in _named_parameters(side, gan).items():
        keys = ("step", "exp_avg", "exp_avg_sq")
        if f"{name}/step" in stored:
            state = {key: stored[f"{name}/{key}"] for key in keys}
            # Adam keeps `step` on the CPU, and its moments in the memory layout of the parameter.
            moments = {key: torch.empty_like(parameter).copy_(state[key]) for key in keys[1:]}
            side.optimizer.state[parameter] = {"step": state["step"], **moments}


@torch.no_grad()
def _fill(targets: dict[str, Tensor], stored: dict[str, Tensor], path: Path) -> None:
    wrong = [
        name
        for name in sorted(targets.keys() | stored.keys())
        if name not in targets or name not in stored or targets[name].shape != stored[name].shape
    ]
    if wrong:
        raise ValueError(
            f"checkpoint {path} is of other networks ({wrong[0]} and {len(wrong) - 1} more differ):"
            " use the configuration that wrote it, or another --run folder"
        )
    for name, tensor in targets.items():
        tensor.copy_(stored[name])


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
