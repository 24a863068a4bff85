"""What it takes to open shards and to go anywhere in them; one JSON line.

t2f_dist_growth.py FOLDER RESOLUTION alone|workers

With workers: the memory of a rank and its two loader processes together.
"""

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from t2f_dist.config.load import read_yaml, resolve
from t2f_dist.config.schema import Config
from t2f_dist.data.indexed import IndexedSamples
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.data.order import Order

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "t2f_lfw_64.yaml"
BATCH, STAGE = 64, 32
FAR = 10**9
NUM_SCATTERED = 60  # batches, each of another window
WORKERS = 2


def anonymous(process: int | str = "self") -> float:
    """MB of memory of a process that no file stands behind."""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024 / 1e6


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def scattered(num_samples: int) -> list[tuple[int, int, int]]:
    places = np.random.default_rng(0).integers(num_samples, size=NUM_SCATTERED)
    return [(int(place), BATCH, STAGE) for place in places]


def together(samples: IndexedSamples, before: float) -> float:
    """The most MB that this process and its loader processes have at once, less what each began with."""
    most = 0.0
    stream = batches(samples, scattered(samples.manifest.num_samples("train")), 0, 1, WORKERS)
    for _ in stream:
        processes = [anonymous(child.pid or "self") for child in multiprocessing.active_children()]
        assert len(processes) == WORKERS
        most = max(most, anonymous() + sum(processes) - before * (1 + WORKERS))
    return most


def main() -> None:
    folder, resolution, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    stages = json.dumps([{"resolution": resolution, "stable_images": BATCH, "batch_size": BATCH}])
    config = resolve(Config, read_yaml(CONFIG), [f"data.shards={folder}", f"stages={stages}"])
    before = anonymous()
    start = time.perf_counter()
    samples = open_samples(config)
    assert isinstance(samples, IndexedSamples)
    opened = time.perf_counter() - start
    if how == "workers":
        print(json.dumps({"memory_workers": together(samples, before)}))
        return
    found: dict[str, float] = {"open": opened, "memory_open": anonymous() - before}
    counts = [shard.num_samples for shard in samples.shards.listed]
    num_samples = sum(counts)
    order = Order(counts, 0, config.data.shuffle_window_shards)
    found["order"] = timed(lambda: order.window(num_samples // 2))
    for name, position in (("first", 0), ("middle", num_samples // 2), ("far", FAR)):
        stream = batches(samples, [(position, BATCH, STAGE)], 0, 1, 0)
        found[name] = timed(lambda stream=stream: next(stream))
    steps = scattered(num_samples)
    found["scattered"] = timed(lambda: [len(batch) for batch in batches(samples, steps, 0, 1, 0)]) / NUM_SCATTERED
    found["memory_used"] = anonymous() - before
    found["whole_order"] = timed(lambda: [order.window(first) for first in range(0, num_samples, sum(counts[:16]))])
    print(json.dumps(found))


main()
