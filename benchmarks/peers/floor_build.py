"""Decode, resize by box, encode: what making a shard of pictures costs at least. One process, no tar.

floor_build.py FOLDER RESOLUTION QUALITY 4:4:4|4:2:0 COUNT
"""

import io
import json
import sys
import time
from pathlib import Path

from PIL import Image


def main() -> None:
    folder, resolution, quality, sampling, count = sys.argv[1:]
    side, subsampling = int(resolution), {"4:4:4": 0, "4:2:0": 2}[sampling]
    paths = sorted(Path(folder).rglob("*.jpg"))[: int(count)]
    start = time.perf_counter()
    for path in paths:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        image = image.resize((side, side), Image.Resampling.BOX)
        image.save(io.BytesIO(), "JPEG", quality=int(quality), subsampling=subsampling)
    print(json.dumps({"images": len(paths), "seconds": time.perf_counter() - start}))


main()
