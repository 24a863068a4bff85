"""MosaicML Streaming: StreamingDataset and StreamingDataLoader over MDS files on the local disk.

mosaicml_load.py write SHARDS OUT
mosaicml_load.py read|draft              then requests on standard input; draft: decoding as t2f-dist does
mosaicml_load.py state FOLDER RESOLUTION POSITION STATE     go there, and write down what state_dict says
mosaicml_load.py resume FOLDER RESOLUTION STATE             a new process, which calls load_state_dict
"""

import json
import sys
from pathlib import Path

import ready
import streaming  # pyright: ignore[reportMissingImports]
from streaming.base.util import clean_stale_shared_memory  # pyright: ignore[reportMissingImports]


class Pictures(streaming.StreamingDataset):
    resolution = 0  # 0: not decoded
    draft = False

    def __getitem__(self, at):
        sample = super().__getitem__(at)
        image = sample["image"]
        if self.resolution:
            image = ready.picture(image, self.resolution, self.draft)
        return image, sample["caption"]


def write(shards: str, out: str) -> None:
    with streaming.MDSWriter(out=out, columns={"image": "bytes", "caption": "str"}, size_limit=1 << 26) as sink:
        for image, caption in ready.stored(Path(shards)):
            sink.write({"image": image, "caption": caption})
    print(json.dumps({}))


def opened(folder: str, resolution: int, workers: int = 0, draft: bool = False):
    clean_stale_shared_memory()
    dataset = Pictures(local=folder, shuffle=True, shuffle_seed=0, batch_size=ready.BATCH)
    dataset.resolution, dataset.draft = resolution, draft
    collate = ready.batch if resolution else ready.undecoded
    return streaming.StreamingDataLoader(
        dataset,
        batch_size=ready.BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
        drop_last=True,
    )


def answer(request: dict) -> dict:
    resolution, workers = request["resolution"], request["workers"]
    loader = opened(request["folder"], resolution, workers, draft=sys.argv[1] == "draft")
    return ready.rate(lambda: loader, request["seconds"], resolution, started=workers > 0)


def state(folder: str, resolution: int, position: int, path: str) -> dict:
    loader = opened(folder, 0)
    stream = iter(loader)
    for _ in range(position // ready.BATCH):
        next(stream)
    Path(path).write_text(json.dumps(loader.state_dict()))
    return {"digest": ready.digest_undecoded(next(stream), resolution)}


def resume(folder: str, resolution: int, path: str) -> dict:
    known = json.loads(Path(path).read_text())
    ready.forget(Path(folder))

    def epoch():
        loader = opened(folder, resolution)
        loader.load_state_dict(known)
        return loader

    return ready.first_batch(epoch, resolution)


def main() -> None:
    command, *arguments = sys.argv[1:]
    if command == "write":
        write(*arguments)
    elif command == "state":
        print(json.dumps(state(arguments[0], int(arguments[1]), int(arguments[2]), arguments[3])))
    elif command == "resume":
        print(json.dumps(resume(arguments[0], int(arguments[1]), arguments[2])))
    else:
        ready.serve(answer)


if __name__ == "__main__":
    main()
