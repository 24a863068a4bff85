"""The same samples as each system stores them, under runs/benchmarks: made once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import pictures, section
from benchmarks.peers import environment
from t2f_dist.shard.manifest import VERSION, Manifest

HOME = section.ROOT / "runs" / "benchmarks"
MADE = "made"  # written last
WRITERS = {  # system -> the script that writes its copy
    "webdataset": "webdataset_load.py",
    "mosaicml-streaming": "mosaicml_load.py",
    "litdata": "litdata_load.py",
}


def stored(resolution: int, count: int, samples_per_shard: int, peers: bool = True) -> dict[str, Path]:
    """System -> folder. Peers hold the very JPEGs and captions of t2f-dist's shards, in the order of those.

    Made anew where they are not whole, of another version of the format, or of other pins of a peer.
    """
    home = HOME / f"corpus-{resolution}px-{count}-{samples_per_shard}"
    wanted = _pins() if peers else {}
    folders = {name: home / name for name in ("t2f-dist", *wanted)}
    if _whole(home, wanted):
        return folders
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    source = pictures.folder(HOME, resolution, count)
    line = [str(Path(sys.executable).with_name("t2f-dist")), "shard", "--faces", str(source / "images")]
    line += ["--captions", str(source / "captions.csv"), "--resolution", str(resolution)]
    line += ["--validation", "0", "--test", "0", "--identity", "stem", "--out", str(folders["t2f-dist"])]
    line += ["--set", f"samples_per_shard={samples_per_shard}"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    for name in wanted:
        cores = sorted(environment.cores())
        environment.run(name, WRITERS[name], "write", str(folders["t2f-dist"]), str(folders[name]), cores=cores)
    shutil.rmtree(source)
    (home / MADE).write_text(json.dumps({"version": VERSION, "pins": wanted}))
    return folders


def _pins() -> dict[str, str]:
    """What the copy of each peer depends on."""
    return {name: (environment.SCRIPTS / f"{name}.txt").read_text() for name in WRITERS}


def _whole(home: Path, wanted: dict[str, str]) -> bool:
    """Whether all copies were finished, and this t2f-dist reads its own."""
    try:
        made = json.loads((home / MADE).read_text())
        Manifest.load(home / "t2f-dist")
    except (OSError, ValueError):
        return False
    return made["version"] == VERSION and wanted.items() <= made["pins"].items()


def sizes(folders: dict[str, Path]) -> dict[str, int]:
    """Bytes on the disk of each copy."""
    return {name: sum(path.stat().st_size for path in folder.rglob("*")) for name, folder in folders.items()}
