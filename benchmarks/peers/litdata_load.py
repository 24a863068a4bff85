"""LitData: StreamingDataset and StreamingDataLoader over chunks of 64 MB, as its documentation makes them.

litdata_load.py write SHARDS OUT
litdata_load.py read                     then requests on standard input
"""

import json
import sys
from pathlib import Path

import litdata  # pyright: ignore[reportMissingImports]
import ready


class Pictures(litdata.StreamingDataset):
    resolution = 0  # 0: not decoded

    def __getitem__(self, at):
        sample = super().__getitem__(at)
        image = sample["image"]
        return ready.picture(image, self.resolution) if self.resolution else image, sample["caption"]


def unchanged(sample):
    return {"image": sample[0], "caption": sample[1]}


def write(shards: str, out: str) -> None:
    samples = list(ready.stored(Path(shards)))
    litdata.optimize(fn=unchanged, inputs=samples, output_dir=out, chunk_bytes="64MB", num_workers=1, verbose=False)
    print(json.dumps({}))


def opened(folder: str, resolution: int, workers: int = 0):
    dataset = Pictures(folder, shuffle=True, drop_last=True, seed=0)
    dataset.resolution = resolution
    collate = ready.batch if resolution else ready.undecoded
    return litdata.StreamingDataLoader(
        dataset, batch_size=ready.BATCH, num_workers=workers, collate_fn=collate, drop_last=True
    )


def answer(request: dict) -> dict:
    loader = opened(request["folder"], request["resolution"], request["workers"])
    return ready.rate(lambda: loader, request["seconds"], request["resolution"])


def state(folder: str, position: str, path: str) -> dict:
    loader = opened(folder, 0)
    for number, _ in enumerate(loader, 1):
        if number * ready.BATCH >= int(position):
            Path(path).write_text(json.dumps(loader.state_dict()))
            return {}
    raise ValueError(f"{position} is past the end")


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
        print(json.dumps(state(*arguments)))
    elif command == "resume":
        print(json.dumps(resume(arguments[0], int(arguments[1]), arguments[2])))
    else:
        ready.serve(answer)


if __name__ == "__main__":
    main()
