"""What every loader here does alike: a JPEG to a picture, samples to a batch, and the measuring of either.

A script of this folder asks and is asked over its standard input and output, a JSON line each. It stays, so that its
imports are paid for once and the systems can take turns cell by cell.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

BATCH = 64


def picture(content: bytes, resolution: int, draft: bool = False) -> np.ndarray:
    """A JPEG at a resolution, reduced by box: uint8 [R, R, 3].

    It is decoded whole, as the documentation of every peer does; with `draft` at the scale that reaches the
    resolution, as t2f-dist does.
    """
    image = Image.open(io.BytesIO(content))
    if draft:
        image.draft("RGB", (resolution, resolution))
    image = image.convert("RGB")
    return np.asarray(image if image.width == resolution else image.reduce(image.width // resolution))


def batch(samples: Sequence[tuple[np.ndarray, str]]) -> tuple[Tensor, list[str]]:
    """Pictures and captions -> uint8 [N, 3, R, R], contiguous, and the captions."""
    images = np.empty((len(samples), 3, *samples[0][0].shape[:2]), np.uint8)
    for image, (content, _) in zip(images, samples):
        image[:] = content.transpose(2, 0, 1)
    return torch.from_numpy(images), [caption for _, caption in samples]


def stored(folder: Path) -> Iterator[tuple[bytes, str]]:
    """The JPEGs and captions of t2f-dist's shards, as they stand there."""
    for path in sorted(folder.glob("train-*.tar")):
        image = b""
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                if member.name.endswith(".jpg"):
                    image = content.read()
                elif member.name.endswith(".txt"):
                    yield image, content.read().decode().splitlines()[0]


def undecoded(samples: Sequence[tuple[bytes, str]]) -> tuple[list[bytes], list[str]]:
    """A batch of JPEGs as they are: for going through an epoch quickly."""
    return [image for image, _ in samples], [caption for _, caption in samples]


def rate(
    opened: Callable[[], Iterable[Sequence[Any]]], seconds: float, resolution: int, started: bool = False
) -> dict[str, float]:
    """Images a second over whole epochs, the first batch of each included.

    Args:
        opened: constructs the objects that an epoch is read from, or gives those that are there: not counted. From
            the call of `iter` on, all is.
        seconds: at least; whole epochs are counted.
        started: an epoch before that is not counted starts loader processes, which stay.
    """
    num_images, spent = 0, 0.0
    while spent < seconds:
        epoch = opened()
        images, here, start = None, 0, time.perf_counter()
        for images, *_ in epoch:
            here += len(images)
        taken = time.perf_counter() - start
        assert images is not None and images.shape[1:] == (3, resolution, resolution), "no batch, or another shape"
        assert images.dtype == torch.uint8, images.dtype
        if isinstance(epoch, Generator):
            epoch.close()
        if not started:
            num_images, spent = num_images + here, spent + taken
        started = False
    return {"images": num_images, "seconds": spent}


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer each line of standard input; what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()


def first_batch(epoch: Callable[[], Iterable[Sequence[Any]]], resolution: int) -> dict[str, Any]:
    """From nothing open to the first batch: seconds, bytes asked for by read calls, bytes from the disk, its digest."""
    before, start = _read(), time.perf_counter()
    batch = next(iter(epoch()))
    seconds, after = time.perf_counter() - start, _read()
    return {
        "digest": digest(batch, resolution),
        "seconds": seconds,
        "asked": after["rchar"] - before["rchar"],
        "from_disk": after["read_bytes"] - before["read_bytes"],
    }


def digest(found: Sequence[Any], resolution: int) -> str:
    """sha256 of a batch: of its pictures, and of its captions or what has become of them."""
    images, captions = found[:2]
    assert images.shape == (BATCH, 3, resolution, resolution) and images.dtype == torch.uint8, images.shape
    known = hashlib.sha256(images.numpy().tobytes())
    known.update(json.dumps(captions, default=Tensor.tolist).encode())
    return known.hexdigest()


def digest_undecoded(found: tuple[list[bytes], list[str]], resolution: int) -> str:
    """The same of a batch of JPEGs as they are."""
    return digest(batch([(picture(image, resolution), caption) for image, caption in zip(*found)]), resolution)


def _read() -> dict[str, int]:
    """What this process and all its threads have read."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def forget(folder: Path) -> None:
    """Take what was written of a folder out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def command(
    write: Callable[..., None],
    state: Callable[[str, int, int, str], dict[str, Any]],
    resume: Callable[[str, int, str], dict[str, Any]],
    answer: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """What a peer's script is asked for on its command line: `write ...`, `state`, `resume`, else to serve answers."""
    name, *arguments = sys.argv[1:]
    if name == "write":
        write(*arguments)
    elif name == "state":
        folder, resolution, position, path = arguments
        print(json.dumps(state(folder, int(resolution), int(position), path)))
    elif name == "resume":
        folder, resolution, path = arguments
        print(json.dumps(resume(folder, int(resolution), path)))
    else:
        serve(answer)
