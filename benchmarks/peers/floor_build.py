"""Decode, resize by box, encode: what making a shard of pictures costs at least. One process, no tar.

floor_build.py FOLDER RESOLUTION QUALITY 4:4:4|4:2:0 whole|reduced COUNT

Reduced: as t2f-dist does, a JPEG is decoded at the smallest scale that leaves twice the resolution where the ratio is
whole, and means of whole pixels are taken without the general filter.
"""

import io
import json
import sys
import time
from pathlib import Path

from PIL import Image


def main() -> None:
    folder, resolution, quality, sampling, decoding, count = sys.argv[1:]
    side, subsampling = int(resolution), {"4:4:4": 0, "4:2:0": 2}[sampling]
    paths = sorted(Path(folder).rglob("*.jpg"))[: int(count)]
    start = time.perf_counter()
    for path in paths:
        image = Image.open(io.BytesIO(path.read_bytes()))
        ratio, rest = divmod(image.width, side)
        if decoding == "reduced" and not rest:
            for scale in (8, 4, 2):
                if ratio % scale == 0 and ratio // scale >= 2:
                    image.draft("RGB", (image.width // scale, image.height // scale))
                    break
            image.load()
            image = image.reduce(image.width // side)
        else:
            image = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
        image.save(io.BytesIO(), "JPEG", quality=int(quality), subsampling=subsampling)
    print(json.dumps({"images": len(paths), "seconds": time.perf_counter() - start}))


main()
