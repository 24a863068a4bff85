"""The command `t2f-dist shard`.

t2f_dist_build.py FOLDER RESOLUTION QUALITY COUNT OUT WORKERS
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    folder, resolution, quality, count, out, workers = sys.argv[1:]
    listed = Path(out + ".csv")
    lines = (Path(folder) / "captions.csv").read_text().splitlines()[: int(count) + 1]
    listed.write_text("\n".join(lines) + "\n")
    line = [str(Path(sys.executable).with_name("t2f-dist")), "shard", "--faces", f"{folder}/images"]
    line += ["--captions", str(listed), "--out", out, "--resolution", resolution, "--workers", workers]
    line += ["--set", f"image.quality={quality}", "--set", "samples_per_shard=250"]
    start = time.perf_counter()
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr, env=os.environ)
    seconds = time.perf_counter() - start
    manifest = json.loads((Path(out) / "manifest.json").read_text())
    images = manifest["totals"]["images"]["stored"]
    assert images == int(count), images
    print(json.dumps({"images": images, "seconds": seconds}))


main()
