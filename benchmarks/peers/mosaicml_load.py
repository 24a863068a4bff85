"""MosaicML Streaming: StreamingDataset and StreamingDataLoader over MDS files on the local disk.

mosaicml_load.py write SHARDS OUT
mosaicml_load.py read|draft              then requests on standard input; draft: decoding as t2f-dist does
mosaicml_load.py state FOLDER RESOLUTION POSITION STATE     go there, and write down what state_dict says
mosaicml_load.py resume FOLDER RESOLUTION STATE             a new process, which calls load_state_dict
"""

import json
from pathlib import Path

import ready
import stateful
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


if __name__ == "__main__":  # also imported by loader processes
    stateful.command(write, opened)
