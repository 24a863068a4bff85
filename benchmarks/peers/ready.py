"""What every loader here does alike: a JPEG to a picture, samples to a batch, and the measuring of either.

A script of this folder asks and is asked over its standard input and output, a JSON line each. It stays, so that its
imports are paid for once and the systems can take turns cell by cell.
"""

from __future__ import annotations

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
WARM = 1  # batches before the clock starts
MIN_COUNTED = 3  # batches


def picture(content: bytes, resolution: int) -> np.ndarray:
    """A JPEG, decoded whole and reduced by box: uint8 [R, R, 3]."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(image if image.width == resolution else image.reduce(image.width // resolution))


def batch(samples: Sequence[tuple[np.ndarray, str]]) -> tuple[Tensor, list[str]]:
    """Pictures and captions -> uint8 [N, 3, R, R], contiguous, and the captions."""
    pictures = np.stack([picture for picture, _ in samples])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), [caption for _, caption in samples]


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


def rate(epoch: Callable[[], Iterable[Sequence[Any]]], seconds: float, resolution: int) -> dict[str, float]:
    """Images a second within epochs; what starts an epoch, and its first batches, are not counted."""
    num_images, spent, counted = 0, 0.0, 0
    while spent < seconds or counted < MIN_COUNTED:
        batches = iter(epoch())
        images = next(batches)[0]
        for _ in range(WARM - 1):
            images = next(batches)[0]
        assert images.shape[1:] == (3, resolution, resolution) and images.dtype == torch.uint8, images.shape
        start = time.perf_counter()
        for images, *_ in batches:
            num_images += len(images)
            counted += 1
            if spent + time.perf_counter() - start >= seconds and counted >= MIN_COUNTED:
                break
        spent += time.perf_counter() - start
        if isinstance(batches, Generator):
            batches.close()
        del batches
    return {"images": num_images, "seconds": spent}


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer each line of standard input; what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()


def first_batch(epoch: Callable[[], Iterable[Sequence[Any]]], resolution: int) -> dict[str, float]:
    """From nothing open to the first batch: seconds, bytes asked for by read calls, and bytes from the disk."""
    before, start = _read(), time.perf_counter()
    images = next(iter(epoch()))[0]
    seconds, after = time.perf_counter() - start, _read()
    assert images.shape == (BATCH, 3, resolution, resolution), images.shape
    return {
        "seconds": seconds,
        "asked": after["rchar"] - before["rchar"],
        "from_disk": after["read_bytes"] - before["read_bytes"],
    }


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
