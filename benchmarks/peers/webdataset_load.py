"""webdataset as its documentation tunes it: shards shuffled, a shuffle buffer, batches made in the pipeline, WebLoader.

webdataset_load.py write SHARDS OUT
webdataset_load.py read|draft            then requests on standard input; draft: decoding as t2f-dist does
webdataset_load.py state FOLDER RESOLUTION POSITION STATE     go there; all that there is to know is the position
webdataset_load.py resume FOLDER RESOLUTION STATE             a new process
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import ready
from webdataset.compat import WebDataset, WebLoader
from webdataset.writer import ShardWriter


def write(shards: str, out: str) -> None:
    """As many samples a tar as in the shards."""
    manifest = json.loads((Path(shards) / "manifest.json").read_text())
    count = manifest["splits"]["train"]["shards"][0]["num_samples"]
    Path(out).mkdir(parents=True)
    with ShardWriter(f"{out}/%06d.tar", maxcount=count, verbose=0, mtime=0) as sink:
        for number, (image, caption) in enumerate(ready.stored(Path(shards))):
            sink.write({"__key__": f"{number:07d}", "jpg": image, "txt": caption})
    print(json.dumps({}))


def pipeline(folder: str, resolution: int, first: int = 0, draft: bool = False) -> Any:
    """The batches of an epoch from a sample on: there is no way there but to read all that comes before it.

    Resolution 0: not decoded.
    """
    dataset = WebDataset(sorted(str(path) for path in Path(folder).glob("*.tar")), shardshuffle=100, seed=0).shuffle(
        1000, seed=0
    )
    dataset = dataset.slice(first, sys.maxsize) if first else dataset  # not yet decoded

    def sample(pair: tuple[bytes, bytes]) -> tuple[Any, str]:
        return ready.picture(pair[0], resolution, draft) if resolution else pair[0], pair[1].decode()

    collate = ready.batch if resolution else ready.undecoded
    return dataset.to_tuple("jpg", "txt").map(sample).batched(ready.BATCH, collation_fn=collate, partial=False)


def answer(request: dict) -> dict:
    resolution, workers = request["resolution"], request["workers"]
    dataset = pipeline(request["folder"], resolution, draft=sys.argv[1] == "draft")
    if workers:
        dataset = WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=True)
    return ready.rate(lambda: dataset, request["seconds"], resolution, started=workers > 0)


def state(folder: str, resolution: int, position: int, path: str) -> dict:
    following = next(itertools.islice(pipeline(folder, 0), position // ready.BATCH, None))
    Path(path).write_text(json.dumps(position))
    return {"digest": ready.digest_undecoded(following, resolution)}


def resume(folder: str, resolution: int, path: str) -> dict:
    position = json.loads(Path(path).read_text())
    ready.forget(Path(folder))
    return ready.first_batch(lambda: pipeline(folder, resolution, position), resolution)


ready.command(write, state, resume, answer)
