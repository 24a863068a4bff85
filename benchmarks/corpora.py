"""The same samples as each system stores them, under runs/benchmarks: made once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import pictures, section
from benchmarks.peers import environment

HOME = section.ROOT / "runs" / "benchmarks"
WRITERS = {  # system -> the script that writes its copy
    "webdataset": "webdataset_load.py",
    "mosaicml-streaming": "mosaicml_load.py",
    "litdata": "litdata_load.py",
}


def stored(resolution: int, count: int, samples_per_shard: int = 512, peers: bool = True) -> dict[str, Path]:
    """System -> folder. Peers hold the very JPEGs and captions of t2f-dist's shards, in the order of those."""
    home = HOME / f"corpus-{resolution}px-{count}-{samples_per_shard}"
    made = home / "made"
    folders = {name: home / name for name in ("t2f-dist", *WRITERS)}
    if made.exists() and made.read_text() == _stamp():
        return folders
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    source = pictures.folder(HOME, resolution, count)
    line = [str(Path(sys.executable).with_name("t2f-dist")), "shard", "--faces", str(source / "images")]
    line += ["--captions", str(source / "captions.csv"), "--resolution", str(resolution)]
    line += ["--validation", "0", "--test", "0", "--identity", "stem", "--out", str(folders["t2f-dist"])]
    line += ["--set", f"samples_per_shard={samples_per_shard}"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    for name, script in WRITERS.items() if peers else ():
        cores = sorted(environment.cores())
        environment.run(name, script, "write", str(folders["t2f-dist"]), str(folders[name]), cores=cores)
    shutil.rmtree(source)
    made.write_text(_stamp())
    return folders


def _stamp() -> str:
    """What the copies depend on."""
    from t2f_dist.shard.manifest import VERSION

    pins = {name: (environment.SCRIPTS / f"{name}.txt").read_text() for name in WRITERS}
    return json.dumps({"version": VERSION, "pins": pins})


def sizes(folders: dict[str, Path]) -> dict[str, int]:
    """Bytes on the disk of each copy."""
    return {name: sum(path.stat().st_size for path in folder.rglob("*")) for name, folder in folders.items()}
