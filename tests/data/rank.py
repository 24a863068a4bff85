"""One rank that reads a stream, as a process: a digest of each batch, a line each, as it comes."""

import hashlib
import json
import sys
import time
from typing import Any

import torch

from t2f_dist.config.load import resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.growth import Growth
from tests.data.test_loader import joined


def digests(config: Config, rank: int, world_size: int, first_step: int, num_steps: int, pause: float) -> None:
    start = first_step * config.stages[0].batch_size
    stream = batches(
        open_samples(config), Growth(config.stages).steps(start), rank, world_size, config.data.num_workers
    )
    for _, batch in zip(range(num_steps), stream):
        print(digest(joined((batch,))), flush=True)
        time.sleep(pause)
    stream.close()


def digest(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    given: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    digests(resolve(Config, given.pop("config")), **given)
