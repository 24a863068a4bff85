"""img2dataset over the same files, by file:// addresses.

img2dataset_build.py FOLDER RESOLUTION QUALITY COUNT OUT PROCESSES THREADS
"""

import csv
import json
import sys
import time
from pathlib import Path

from img2dataset import download  # pyright: ignore[reportMissingImports]


def main() -> None:
    folder, resolution, quality, count, out, processes, threads = sys.argv[1:]
    listed = Path(out + ".csv")
    with open(Path(folder) / "captions.csv") as file, open(listed, "w") as addresses:
        writer = csv.writer(addresses)
        writer.writerow(["url", "caption"])
        for _, row in zip(range(int(count)), csv.DictReader(file)):
            writer.writerow([f"file://{Path(folder).resolve()}/images/{row['image']}", row["caption"]])
    start = time.perf_counter()
    download(
        url_list=str(listed),
        input_format="csv",
        url_col="url",
        caption_col="caption",
        output_folder=out,
        output_format="webdataset",
        number_sample_per_shard=1000,
        image_size=int(resolution),
        resize_mode="center_crop",
        encode_quality=int(quality),
        processes_count=int(processes),
        thread_count=int(threads),
    )
    seconds = time.perf_counter() - start
    images = sum(json.loads(path.read_text())["successes"] for path in Path(out).glob("*_stats.json"))
    print(json.dumps({"images": images, "seconds": seconds}))


if __name__ == "__main__":
    main()
