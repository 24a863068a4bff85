"""The training loader of t2f-dist.

t2f_dist_load.py training|pictures       then requests on standard input
t2f_dist_load.py resume FOLDER RESOLUTION POSITION
"""

import itertools
import json
import sys
from pathlib import Path

import ready

from t2f_dist.config.load import read_yaml, resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.dataset import Samples, Wanted
from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.data.loader import batches, open_samples

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "t2f_lfw_256.yaml"


def resolved(folder: str, stored: int) -> Config:
    stages = json.dumps([{"resolution": stored, "stable_images": ready.BATCH, "batch_size": ready.BATCH}])
    channels = [16] * (stored.bit_length() - 2)  # no network is built
    changes = [f"{network}.channels={channels}" for network in ("generator", "discriminator")]
    return resolve(Config, read_yaml(CONFIG), [f"data.shards={folder}", f"stages={stages}", *changes])


def from_position(samples: Samples, resolution: int, first: int, workers: int = 0):
    steps = ((first + step * ready.BATCH, ready.BATCH, resolution) for step in itertools.count())
    for batch in batches(samples, steps, 0, 1, workers):
        yield batch.images, batch.condition


def answer(request: dict) -> dict:
    config = resolved(request["folder"], request["corpus"])

    def epoch():
        # Opened anew each time: in a large corpus, too, no caption is at hand when its sample comes.
        if sys.argv[1] == "training":
            samples = open_samples(config)
        else:
            samples = IndexedSamples(config.data.shards, "train", 0, 16, Wanted(modalities=config.condition.modalities))
        num_batches = samples.manifest.num_samples("train") // ready.BATCH
        stream = from_position(samples, request["resolution"], 0, request["workers"])
        try:
            yield from itertools.islice(stream, num_batches)
        finally:
            stream.close()
            samples.close()

    return ready.rate(epoch, request["seconds"], request["resolution"])


def resume(folder: str, resolution: int, position: int) -> dict:
    config = resolved(folder, resolution)
    ready.forget(Path(folder))
    return ready.first_batch(lambda: from_position(open_samples(config), resolution, position), resolution)


if sys.argv[1] == "resume":
    print(json.dumps(resume(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
else:
    ready.serve(answer)
