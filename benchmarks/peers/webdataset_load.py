"""webdataset as its documentation tunes it: shards shuffled, a shuffle buffer, batches made in the pipeline, WebLoader.

webdataset_load.py write SHARDS OUT
webdataset_load.py read                  then requests on standard input
webdataset_load.py resume FOLDER RESOLUTION POSITION
"""

import json
import sys
from pathlib import Path
from typing import Any

import ready
from webdataset.compat import WebDataset, WebLoader
from webdataset.writer import ShardWriter


def write(shards: str, out: str) -> None:
    Path(out).mkdir(parents=True)
    with ShardWriter(f"{out}/%06d.tar", maxcount=512, verbose=0, mtime=0) as sink:
        for number, (image, caption) in enumerate(ready.stored(Path(shards))):
            sink.write({"__key__": f"{number:07d}", "jpg": image, "txt": caption})
    print(json.dumps({}))


def pipeline(folder: str, resolution: int, first: int = 0) -> Any:
    """The batches of an epoch from a sample on: there is no way there but to read all that comes before it."""
    dataset = WebDataset(sorted(str(path) for path in Path(folder).glob("*.tar")), shardshuffle=100, seed=0).shuffle(
        1000, seed=0
    )
    dataset = dataset.slice(first, sys.maxsize) if first else dataset  # not yet decoded
    return (
        dataset.to_tuple("jpg", "txt")
        .map(lambda pair: (ready.picture(pair[0], resolution), pair[1].decode()))
        .batched(ready.BATCH, collation_fn=ready.batch, partial=False)
    )


def answer(request: dict) -> dict:
    def epoch() -> Any:
        dataset = pipeline(request["folder"], request["resolution"])
        if not request["workers"]:
            return dataset
        return WebLoader(dataset, batch_size=None, num_workers=request["workers"])

    return ready.rate(epoch, request["seconds"], request["resolution"])


def resume(folder: str, resolution: int, position: int) -> dict:
    ready.forget(Path(folder))
    return ready.first_batch(lambda: pipeline(folder, resolution, position), resolution)


if sys.argv[1] == "write":
    write(*sys.argv[2:])
elif sys.argv[1] == "resume":
    print(json.dumps(resume(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
else:
    ready.serve(answer)
