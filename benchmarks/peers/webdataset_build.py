"""The loop that webdataset's documentation gives for making shards, with Pillow.

webdataset_build.py FOLDER RESOLUTION QUALITY COUNT OUT
"""

import csv
import io
import json
import sys
import time
from pathlib import Path

from PIL import Image
from webdataset.writer import ShardWriter


def main() -> None:
    folder, resolution, quality, count, out = sys.argv[1:]
    side = int(resolution)
    start = time.perf_counter()
    with open(Path(folder) / "captions.csv") as file:
        rows = list(csv.DictReader(file))[: int(count)]
    with ShardWriter(f"{out}/%06d.tar", maxcount=1000, verbose=0) as sink:
        for number, row in enumerate(rows):
            image = Image.open(io.BytesIO((Path(folder) / "images" / row["image"]).read_bytes())).convert("RGB")
            image = image.resize((side, side), Image.Resampling.BOX)
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=int(quality), subsampling=0)
            sink.write({"__key__": f"{number:07d}", "jpg": stream.getvalue(), "txt": row["caption"]})
    print(json.dumps({"images": len(rows), "seconds": time.perf_counter() - start}))


main()
