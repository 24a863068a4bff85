"""One checkpoint as it is stored: its name, its files, and its state.json."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from t2f_dist.storage.folder import Entry

FORMAT = "t2f-dist-checkpoint"
VERSION = 2
STATE = "state.json"
NETWORKS, OPTIMIZERS = "networks.safetensors", "optimizers.safetensors"
STATE_BYTES_MAX = 4 << 20  # the longest configurations have some kB
HEADER_BYTES_MAX = 32 << 20  # of a file of tensors; read as JSON, it takes many times as much memory
YEAR_10000 = 253402300800  # in seconds since 1970
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"images-(\d{12})(?:-([1-9]\d{0,3}))?")


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is missing, or not what was written."""


@dataclass(frozen=True)
class Listed:
    """A folder of a checkpoint, by what is in it.

    Attributes:
        images: seen when it was saved.
        attempt: 1, or higher where another checkpoint of the same moment was there.
        entries: its files; their names begin with the folder's.
        finished: state.json is there.
        marked: it was found to be damaged.
    """

    name: str
    images: int
    attempt: int
    entries: tuple[Entry, ...]
    finished: bool
    marked: bool

    @property
    def num_bytes(self) -> int:
        return sum(max(0, entry.size) for entry in self.entries)

    def size(self, file: str) -> int | None:
        """Bytes of one of its files; None where there is none."""
        return next((entry.size for entry in self.entries if entry.name == f"{self.name}/{file}"), None)


@dataclass(frozen=True)
class Stored:
    """A checkpoint that was read whole.

    Attributes:
        body: what state.json holds.
        files: name -> content.
    """

    name: str
    body: dict[str, Any]
    files: dict[str, bytes]


def named(images: int, attempt: int) -> str:
    """The name of a checkpoint."""
    return f"images-{images:012d}" + (f"-{attempt}" if attempt > 1 else "")


def moment(name: str) -> tuple[int, int]:
    """The images seen, and which attempt. Raises ValueError for what is no checkpoint's name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is not the name of a checkpoint, such as {named(123456, 1)}")
    return int(match[1]), int(match[2] or 1)


def grouped(entries: Iterable[Entry], folders: Iterable[str], damaged: str) -> list[Listed]:
    """Checkpoints, the newest first.

    Args:
        entries: of the files below their folder.
        folders: names of folders, empty ones too, where there are such.
        damaged: name of the file that marks a damaged one.
    """
    by_name: dict[str, list[Entry]] = {name: [] for name in folders}
    for entry in entries:
        name, slash, _ = entry.name.partition("/")
        if slash:
            by_name.setdefault(name, []).append(entry)
    found = []
    for name, own in by_name.items():
        if _NAME.fullmatch(name):
            files = {entry.name.partition("/")[2] for entry in own}
            found.append(Listed(name, *moment(name), tuple(sorted(own)), STATE in files, damaged in files))
    return sorted(found, key=lambda each: (each.images, each.attempt), reverse=True)


def sealed(body: dict[str, Any]) -> bytes:
    """What state.json is to hold, with its format, version and checksum."""
    body = {"format": FORMAT, "version": VERSION, **body}
    return json.dumps(body | {"checksum": _checksum(body)}, indent=1).encode()


def parsed(content: bytes, name: str, place: str) -> dict[str, Any]:
    """What the state.json of checkpoint `name` holds, which stands at `place`.

    A checksum says that it is what was written, and not who wrote it: what it says is checked too. Raises
    DamagedCheckpoint, or ValueError for another version.
    """
    try:
        body = json.loads(content)
        checksum = body.pop("checksum")
        kind = (body["format"], body["version"])
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{STATE} is unreadable ({type(error).__name__})") from None
    if checksum != _checksum(body):
        raise DamagedCheckpoint(f"{STATE} does not match its checksum")
    if kind != (FORMAT, VERSION):
        raise ValueError(
            f"checkpoint {place} is of format {kind[0]} version {kind[1]}, and this t2f-dist reads {FORMAT} version"
            f" {VERSION}: go on with the t2f-dist that wrote it, or name another folder with --run"
        )
    if (wrong := _wrong(body, moment(name)[0])) is not None:
        raise DamagedCheckpoint(f"{STATE} is of no checkpoint: {wrong}")
    return body


def _wrong(body: dict[str, Any], images: int) -> str | None:
    """The first thing in a state.json that no run writes."""
    files, sizes, scalers, config = (body.get(key) for key in ("files", "bytes", "scalers", "config"))
    if not isinstance(files, dict) or not all(_FILE.fullmatch(file) and _is_sha256(sha) for file, sha in files.items()):
        return "its files have no names with sha256"
    if lacking := {NETWORKS, OPTIMIZERS} - files.keys():
        return f"its files lack {min(lacking)}"
    if not isinstance(sizes, dict) or not all(type(size) is int for size in sizes.values()):
        return "its bytes are no numbers"
    if type(body.get("images_seen")) is not int or body["images_seen"] != images:
        return f"its images_seen are not {images}"
    if not isinstance(body.get("dataset"), str):
        return "its dataset is no text"
    if not isinstance(scalers, dict) or any(
        not isinstance(scalers.get(s), dict) for s in ("generator", "discriminator")
    ):
        return "its scalers are not those of two networks"
    if not _is_number(body.get("saved")):
        return "its time is none"
    if not isinstance(config, dict) or not _are_stages(config.get("stages", [])):
        return "its config is none"
    return None


def _is_sha256(text: Any) -> bool:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < YEAR_10000


def _are_stages(stages: Any) -> bool:
    counts = ("fade_images", "stable_images")
    return isinstance(stages, list) and all(
        isinstance(stage, dict) and all(_is_number(stage.get(count, 0)) for count in counts) for stage in stages
    )


def check_header(content: bytes, file: str) -> None:
    """Of a file of tensors, before it is read. Raises DamagedCheckpoint."""
    if int.from_bytes(content[:8], "little") > HEADER_BYTES_MAX:
        raise DamagedCheckpoint(f"{file} has a header of more than {HEADER_BYTES_MAX:,} bytes")


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
