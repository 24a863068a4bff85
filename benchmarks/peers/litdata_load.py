"""LitData: StreamingDataset and StreamingDataLoader over chunks of 64 MB, as its documentation makes them.

litdata_load.py write SHARDS OUT
litdata_load.py read|draft               then requests on standard input; draft: decoding as t2f-dist does
litdata_load.py state FOLDER RESOLUTION POSITION STATE     go there, and write down what state_dict says
litdata_load.py resume FOLDER RESOLUTION STATE             a new process, which calls load_state_dict
"""

import json
from pathlib import Path

import litdata  # pyright: ignore[reportMissingImports]
import ready
import stateful


class Pictures(litdata.StreamingDataset):
    resolution = 0  # 0: not decoded
    draft = False

    def __getitem__(self, at):
        sample = super().__getitem__(at)
        image = sample["image"]
        if self.resolution:
            image = ready.picture(image, self.resolution, self.draft)
        return image, sample["caption"]


def unchanged(sample):
    return {"image": sample[0], "caption": sample[1]}


def write(shards: str, out: str) -> None:
    samples = list(ready.stored(Path(shards)))
    litdata.optimize(fn=unchanged, inputs=samples, output_dir=out, chunk_bytes="64MB", num_workers=1, verbose=False)
    print(json.dumps({}))


def opened(folder: str, resolution: int, workers: int = 0, draft: bool = False):
    dataset = Pictures(folder, shuffle=True, drop_last=True, seed=0)
    dataset.resolution, dataset.draft = resolution, draft
    collate = ready.batch if resolution else ready.undecoded
    return litdata.StreamingDataLoader(
        dataset,
        batch_size=ready.BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
        drop_last=True,
    )


if __name__ == "__main__":  # also imported by loader processes
    stateful.command(write, opened)
