"""The training loader of t2f-dist.

t2f_dist_load.py training|pictures       then requests on standard input
t2f_dist_load.py state FOLDER RESOLUTION POSITION STATE     go there; all that there is to know is the position
t2f_dist_load.py resume FOLDER RESOLUTION STATE             a new process
"""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ready

from t2f_dist.config.load import read_yaml, resolve
from t2f_dist.config.schema import Config
from t2f_dist.data import captions
from t2f_dist.data.batch import Batch
from t2f_dist.data.dataset import Samples, Wanted
from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.data.loader import batches, open_samples

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "t2f_lfw_256.yaml"
SMALLEST = 4  # pixels


def resolved(folder: str, stored: int, *more: str) -> Config:
    stages = json.dumps([{"resolution": stored, "stable_images": ready.BATCH, "batch_size": ready.BATCH}])
    channels = [16] * (stored.bit_length() - 2)  # no network is built
    changes = [f"{network}.channels={channels}" for network in ("generator", "discriminator")]
    return resolve(Config, read_yaml(CONFIG), [f"data.shards={folder}", f"stages={stages}", *changes, *more])


def read(samples: Samples, steps: Iterable[tuple[int, int, int]], workers: int = 0) -> Iterator[tuple[Any, Any]]:
    for batch in batches(samples, steps, 0, 1, workers):
        yield batch.images, batch.condition


def steps(resolution: int, first: int = 0) -> Iterator[tuple[int, int, int]]:
    return ((position, ready.BATCH, resolution) for position in itertools.count(first, ready.BATCH))


def opened(config: Config) -> Samples:
    """No more is kept at hand than in a large corpus: each epoch opens its shards anew, in loader processes too.

    And no more captions than of a window, as of the windows that are usual.
    """
    window = config.data.shuffle_window_shards
    if sys.argv[1] == "training":
        samples = open_samples(config)
    else:
        samples = IndexedSamples(config.data.shards, "train", 0, window, Wanted(modalities=config.condition.modalities))
    train = samples.manifest.shards("train")
    captions.MAX_CACHED = window * train[0].num_samples
    num_samples = sum(shard.num_samples for shard in train)
    whole, current = samples.batch, 0

    def batch(requests: Sequence[Any]) -> Batch:
        nonlocal current
        epoch = requests[0][0] // num_samples
        if epoch != current:
            samples.close()
            current = epoch
        return whole(requests)

    samples.batch = batch
    return samples


def answer(request: dict) -> dict:
    resolution, workers = request["resolution"], request["workers"]
    config = resolved(request["folder"], request["corpus"], f"data.shuffle_window_shards={request['window']}")

    def epochs() -> Iterator[Any]:
        """Of samples opened for each; with loader processes, which stay, of the same."""
        while True:
            samples = opened(config)
            num_batches = samples.manifest.num_samples("train") // ready.BATCH
            stream = read(samples, steps(resolution), workers)
            yield itertools.islice(stream, num_batches)
            while workers:
                yield itertools.islice(stream, num_batches)
            samples.close()

    given = epochs()
    return ready.rate(lambda: next(given), request["seconds"], resolution, started=workers > 0)


def state(folder: str, resolution: int, position: int, path: str) -> dict:
    """Through the smallest stage, of which less is read, and there into that which is asked for."""
    before = itertools.islice(steps(SMALLEST), position // ready.BATCH)
    stream = read(open_samples(resolved(folder, resolution)), itertools.chain(before, steps(resolution, position)))
    following = next(itertools.islice(stream, position // ready.BATCH, None))
    Path(path).write_text(json.dumps(position))
    return {"digest": ready.digest(following, resolution)}


def resume(folder: str, resolution: int, path: str) -> dict:
    config, position = resolved(folder, resolution), json.loads(Path(path).read_text())
    ready.forget(Path(folder))
    return ready.first_batch(lambda: read(open_samples(config), steps(resolution, position)), resolution)


command, *arguments = sys.argv[1:]
if command == "state":
    print(json.dumps(state(arguments[0], int(arguments[1]), int(arguments[2]), arguments[3])))
elif command == "resume":
    print(json.dumps(resume(arguments[0], int(arguments[1]), arguments[2])))
else:
    ready.serve(answer)
