"""Tars as img2dataset writes them, with what stands beside them."""

import io
import json
import tarfile
from pathlib import Path

from tests.shard.raw import encoded

Members = list[tuple[str, bytes | tarfile.TarInfo]]


def facts(key: str, **changes) -> bytes:
    fields = {"caption": f"caption of {key}", "url": f"https://example.org/{key}", "key": key, "status": "success"}
    fields |= {"error_message": None, "width": 40, "height": 40, "exif": "{}", "album": int(key) // 2}
    return json.dumps(fields | changes).encode()


def sample(key: str, suffix: str = "jpg", **changes) -> Members:
    image = encoded(int(key), {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix])
    return [
        (f"{key}.{suffix}", image),
        (f"{key}.txt", f"a face {key}\n".encode()),
        (f"{key}.json", facts(key, **changes)),
    ]


def write(path: Path, members: Members, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[str, tarfile.TarInfo]:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return name, header


def corpus(root: Path, num_tars: int = 3, each: int = 12, suffixes: tuple[str, ...] = ("jpg", "png", "webp")) -> Path:
    """A folder of tars, and their stats: samples of noise, 40 pixels a side, every one with a caption."""
    for number in range(num_tars):
        keys = [f"{number:05d}{place:04d}" for place in range(each)]
        members = [member for place, key in enumerate(keys) for member in sample(key, suffixes[place % len(suffixes)])]
        write(root / f"{number:05d}.tar", members)
        stats = {"count": each, "successes": each, "failed_to_download": 0, "failed_to_resize": 0}
        (root / f"{number:05d}_stats.json").write_text(json.dumps(stats))
    return root
