"""A few steps of training without a loop, a folder or a log: what a test continues, repeats or compares."""

from pathlib import Path

import safetensors.torch
import torch

from t2f_dist.config.schema import Config
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.stored import DamagedCheckpoint
from t2f_dist.training.corpus import facts
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from t2f_dist.training.step import train_step


def untrained(settings: Config, world_size: int = 1) -> Gan:
    samples = open_samples(settings)
    samples.close()
    return Gan(settings, facts(samples), torch.device("cpu"), world_size)


def trained(
    settings: Config, gan: Gan | None = None, start: int = 0, stop: int = 128, rank: int = 0, world_size: int = 1
) -> Gan:
    """All steps that begin in `start` to `stop` images, of this rank's share. All ranks call."""
    gan = gan or untrained(settings, world_size)
    growth = Growth(settings.stages)
    steps = [step for step in growth.steps(start) if step[0] < stop]
    samples = open_samples(settings)
    for batch, (seen, size, _) in zip(batches(samples, steps, rank, world_size, 0), steps, strict=True):
        train_step(gan, batch, growth.at(seen), seen, 1)
        gan.update_ema(seen, size)
    gan.release()
    samples.close()
    return gan


def state(gan: Gan, folder: Path) -> dict[str, torch.Tensor]:
    """All that a checkpoint keeps: networks with their buffers, moving average, moments, adaptive augmentation."""
    path = write_checkpoint(folder, gan, checkpoint.State(0, "", {}), keep=2)
    kept = {}
    for name in ("networks", "optimizers"):
        kept |= safetensors.torch.load_file(path / f"{name}.safetensors")
    return kept


def unequal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> list[str]:
    """Names whose tensors are not the same to the bit, or are in one of them alone."""
    common = left.keys() & right.keys()
    return sorted((left.keys() ^ right.keys()) | {name for name in common if not torch.equal(left[name], right[name])})


def write_checkpoint(folder: str | Path, gan: Gan, state: checkpoint.State, keep: int = 2) -> Path:
    """Write a checkpoint at once, and wait for it; its path. One rank calls.

    Raises OSError where the disk is full or gone; then no half checkpoint is left, and the older ones stay.
    """
    archive, copy = Archive(folder, keep), checkpoint.Copy()
    copy.take(gan, state)
    name = archive.write(state.images_seen, copy.files, copy.body, warn=print)
    archive.prune()
    return archive.folder.path / name


def read_checkpoint(path: str | Path, gan: Gan) -> checkpoint.State:
    """Fill `gan` from the folder of a checkpoint. Every rank calls, and reads the file itself.

    Raises ValueError where a file is damaged, or the networks are of other shapes.
    """
    path = Path(path)
    try:
        stored = Archive(path.parent).read(path.name)
    except DamagedCheckpoint as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from None
    return checkpoint.fill(gan, stored, str(path))


def checkpoints_in(folder: str | Path) -> list[Path]:
    """Checkpoints in a local folder, finished and not known to be damaged, the newest first."""
    return [Path(folder, each.name) for each in Archive(folder).found()]
