"""A snapshot: the one file that drawing needs. EMA weights, the configuration, the vocabulary, and nothing else.

It is a safetensors file whose header carries the rest as text: no code is run by opening one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from t2f_dist.config.load import recorded, resolve
from t2f_dist.config.numbers import SAMPLE_RATES_HZ
from t2f_dist.config.schema import Config
from t2f_dist.models.condition import Inputs
from t2f_dist.models.facts import Facts
from t2f_dist.models.networks import ConditionalGenerator

FORMAT = "t2f-dist-snapshot"
VERSION = 2
FACES_MAX = 64  # that are drawn at a time
DRAWN_MAX = 2**28  # numbers of the largest layer of all of them, 1 GiB in fp32
HEADER_BYTES_MAX = 32 * 2**20  # the longest vocabularies and lists of people have a few


@dataclass(frozen=True)
class Corpus:
    """What of the shards a condition is read with."""

    vocabulary: str = ""  # vocabulary.json; empty where no caption is read word by word
    embedding: dict[str, Any] | None = None  # of what the stored caption embeddings are, as in the manifest
    identities: tuple[int, ...] = ()  # in the order of their classes, as in the index
    identity_names: tuple[str, ...] = ()  # where they are a condition


@dataclass(frozen=True)
class Snapshot:
    """A generator with all that belongs to it.

    `resolution` and `alpha` are those of the moment it was taken: a run can be looked at before it is done.
    """

    generator: ConditionalGenerator
    config: Config
    facts: Facts
    corpus: Corpus
    images_seen: int
    resolution: int
    alpha: float

    def draw(self, inputs: Inputs, noise: Sequence[int], seed: int = 0, **how: Any) -> Tensor:
        """One face for each row, on the CPU. See `draw`, also for `how`."""
        return draw(self.generator, self.config, inputs, noise, self.resolution, self.alpha, seed, **how)


@torch.no_grad()
def draw(
    generator: ConditionalGenerator,
    config: Config,
    inputs: Inputs,
    noise: Sequence[int],
    resolution: int,
    alpha: float,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> Tensor:
    """Faces for N conditions -> uint8 [N, 3, R, R] on the CPU.

    Args:
        generator: in evaluation mode.
        inputs: the conditions, padded together.
        noise: N numbers; faces of the same (seed, number) get the same noise, whatever they are drawn with.
        resolution: in pixels.
        alpha: how far the newest block is faded in, 0 to 1.
        seed: of the noise, 0 or more.
        batch_size: faces drawn at a time; it changes the speed and the memory, nothing else. None: as many as keep the
            largest layer within DRAWN_MAX numbers, FACES_MAX at most.
        progress: is called with the number of faces drawn since it was called last.
    """
    assert not generator.training
    batch_size = batch_size or max(1, min(FACES_MAX, DRAWN_MAX // config.generator.widest))
    first = next(generator.parameters())
    images = []
    for start in range(0, len(noise), batch_size):
        rows = slice(start, start + batch_size)
        drawn = [_noise(config, seed, number) for number in noise[rows]]
        condition_noise, z = (torch.stack(part).to(first) for part in zip(*drawn, strict=True))
        own = {name: (_moved(values[rows], first), lengths[rows]) for name, (values, lengths) in inputs.items()}
        embedding = generator.encoder(own, z)
        keys = torch.zeros(len(z), dtype=torch.int64, device=first.device)  # nothing is dropped in evaluation
        drawing, _, _ = generator(embedding, condition_noise, z, keys, resolution, alpha)
        images.append(((drawing[-1].float().clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8))
        progress(len(images[-1]))
    return torch.cat(images)


def _moved(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like) if values.is_floating_point() else values.to(like.device)


def _noise(config: Config, seed: int, number: int) -> tuple[Tensor, Tensor]:
    key = np.array([seed, 1 << 32], dtype=np.uint64)  # a stream that training never draws from
    generator = np.random.Generator(np.random.Philox(key=key, counter=np.array([0, number, 0, 0], dtype=np.uint64)))
    condition, z = (generator.standard_normal(n) for n in (config.noise_size, config.generator.z_size))
    return torch.from_numpy(condition), torch.from_numpy(z)


def save(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot, whole or not at all."""
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "config": json.dumps(recorded(snapshot.config)),
        "facts": json.dumps(asdict(snapshot.facts)),
        "corpus": json.dumps(asdict(snapshot.corpus)),
        "images_seen": str(snapshot.images_seen),
        "resolution": str(snapshot.resolution),
        "alpha": repr(snapshot.alpha),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in snapshot.generator.state_dict().items()}
    header["sha256"] = _digest(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(safetensors.torch.save(tensors, metadata=header))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def newest(run: Path) -> Path:
    """The newest snapshot of a run's folder. Raises FileNotFoundError where there is none."""
    found = sorted((run / "snapshots").glob("images-*.safetensors"))
    if not found:
        inner = sorted(path.parent.parent for path in run.glob("*/snapshots/images-*.safetensors"))
        hint = f"did you mean {inner[0]}?" if inner else "train first, or name a .safetensors file"
        raise FileNotFoundError(f"{run} holds no snapshot: {hint}")
    return found[-1]


def load(path: str | Path) -> Snapshot:
    """Open a snapshot, or the newest one of a run's folder, on the CPU.

    Raises FileNotFoundError, or ValueError where it is no snapshot of this version.
    """
    path = Path(path)
    if path.is_dir():
        path = newest(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such snapshot or run: {path}")
    try:
        with open(path, "rb") as start:
            header_bytes = int.from_bytes(start.read(8), "little")
        if HEADER_BYTES_MAX < header_bytes < path.stat().st_size:  # gigabytes, once it is read as JSON
            raise ValueError(f"{path} is no snapshot: a header of {header_bytes:,} bytes, {HEADER_BYTES_MAX:,} at most")
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a safetensors file, or is cut short ({error})") from None
    if header.get("format") != FORMAT or header.get("version") != str(VERSION):
        raise ValueError(f"{path} is not a {FORMAT} of version {VERSION}")
    if header.get("sha256") != _digest(tensors):
        raise ValueError(f"{path} is damaged: its weights do not match their checksum")
    try:
        described = dict(json.loads(header["config"]))
        facts = Facts(**{name: int(value) for name, value in json.loads(header["facts"]).items()})
        corpus = _corpus(json.loads(header["corpus"]))
        images_seen = int(header["images_seen"])
        resolution, alpha = int(header["resolution"]), float(header["alpha"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} has a header that cannot be read: {error!r}") from None
    config = resolve(Config, described, source=f"the configuration in {path}")
    try:
        if facts.sample_rate_hz and facts.sample_rate_hz not in SAMPLE_RATES_HZ:
            raise ValueError(f"voices of {facts.sample_rate_hz:,} Hz")
        with torch.device("meta"):  # no memory is taken for what a stranger's file merely says
            generator = ConditionalGenerator(config, facts)
        if config.train.precision == "fp64":
            generator = generator.double()
        expected = {name: tensor.dtype for name, tensor in generator.state_dict().items()}
        generator.load_state_dict(tensors, assign=True)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not hold the weights that its configuration describes: {reason:.200}") from None
    if any(tensor.dtype != expected[name] for name, tensor in tensors.items()):
        raise ValueError(f"{path} holds weights of another number format than its configuration says")
    if resolution not in {stage.resolution for stage in config.stages} or not 0 <= alpha <= 1:
        raise ValueError(f"{path} was taken at resolution {resolution}, alpha {alpha}, which its stages never show")
    return Snapshot(generator.requires_grad_(False).eval(), config, facts, corpus, images_seen, resolution, alpha)


def _corpus(content: dict[str, Any]) -> Corpus:
    identities = tuple(int(identity) for identity in content["identities"])
    embedding = None if content["embedding"] is None else dict(content["embedding"])
    names = tuple(str(name) for name in content["identity_names"])
    return Corpus(str(content["vocabulary"]), embedding, identities, names)
