"""What img2dataset and others put into a tar for one picture: {key}.jpg (or .png, .webp ...), {key}.txt, {key}.json.

https://github.com/rom1504/img2dataset. A key is a member's name up to the first dot after the last slash; its members
need not stand side by side. The caption is the text file, or where there is none, `caption` of the JSON, or where there
is none either, that of the table beside the tar. A triplet whose JSON or row has a `status` other than success is
refused, and so is one with a member that is a link, a device or a sparse file, or whose name leads out of the folder.
Of a key that stands twice in a tar, the first counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from t2f_dist.shard import tar
from t2f_dist.shard.sources import IMAGE_SUFFIXES

TEXT_BYTES_MAX = 1 << 20  # of a caption or a JSON
IMAGE_BYTES_MAX = 1 << 27
TRIPLETS_MAX = 1_000_000  # of one tar, so that memory is bounded; img2dataset writes 10,000
Part = Literal["image", "text", "facts"]
_PARTS: dict[str, Part] = {"txt": "text", "json": "facts"}


class Piece(NamedTuple):
    """The payload of a member: its place in the tar and its length, in bytes."""

    offset: int
    size: int


@dataclass(slots=True)
class Triplet:
    """The members of one key.

    Attributes:
        key: with the folder in the tar, if it stands in one.
        position: of its first member, in bytes.
        fault: why it is refused; empty: it is not.
        dotted: a member that looks like an image, and of which the key ends sooner; empty: there is none.
    """

    key: str
    position: int
    suffix: str = ""  # of the image, as it is written
    image: Piece | None = None
    text: Piece | None = None
    facts: Piece | None = None
    fault: str = ""
    dotted: str = ""

    @property
    def name(self) -> str:
        """The key, and the suffix of the image if there is one."""
        return f"{self.key}.{self.suffix}" if self.image else self.key


class Repeated(NamedTuple):
    """A member whose key has one of its kind before it."""

    part: Part
    name: str
    piece: Piece


class Fields(NamedTuple):
    """Which fields hold what.

    Attributes:
        captions: a field of the JSON or the table; None: the text file, and where there is none, `caption`.
        identity: a field of the JSON; None: each triplet is an identity of its own.
    """

    captions: str | None = None
    identity: str | None = None


Row = Mapping[str, object]
"""Of the table beside a tar: column -> value."""


@dataclass
class Said:
    """What stands in a triplet beside the image.

    Attributes:
        captions: whatever stood there, so that what is not text can be rejected and counted.
        identity: None: that of its own.
        fault: why the triplet is refused; empty: it is not.
    """

    captions: list[object] = field(default_factory=list)
    identity: str | None = None
    fault: str = ""


def triplets(path: str | Path) -> tuple[dict[str, Triplet], list[Repeated]]:
    """Those of a local tar by key, in the order of the first member of each; and what is in none of them.

    Raises:
        OSError: the tar cannot be read.
        DamagedTar: it is not whole, or holds more than TRIPLETS_MAX.
    """
    found: dict[str, Triplet] = {}
    repeated: list[Repeated] = []
    for member in tar.scan(path):
        name = member.name.removeprefix("./")
        parent, _, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        part = _PARTS.get(suffix) or ("image" if f".{suffix.lower()}" in IMAGE_SUFFIXES else None)
        dotted = part is None and f".{suffix.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES
        if member.kind == "folder" or not stem or (part is None and not dotted):
            continue
        fault = tar.fault(member) or (_large(name, part, member.size) if part else "")
        key = tar.shown(f"{parent}/{stem}" if parent else stem) if fault else f"{parent}/{stem}" if parent else stem
        triplet = found.get(key)
        if triplet is None:
            triplet = found[key] = Triplet(key, member.offset - tar.BLOCK)
        if len(found) + len(repeated) > TRIPLETS_MAX:
            raise tar.DamagedTar(
                member.offset - tar.BLOCK, f"more than {TRIPLETS_MAX:,} keys in one tar; split it", Path(path).name
            )
        if fault:
            triplet.fault = triplet.fault or fault
            continue
        if part is None:
            triplet.dotted = triplet.dotted or name
            continue
        piece = Piece(member.offset, member.size)
        if part == "facts":
            triplet.facts = triplet.facts or piece
        elif part == "text" and triplet.text is None:
            triplet.text = piece
        elif part == "image" and triplet.image is None:
            triplet.image, triplet.suffix = piece, suffix
        else:
            repeated.append(Repeated(part, f"{key}.{suffix}", piece))
    return found, repeated


def said(triplet: Triplet, read: Callable[[Piece], bytes], fields: Fields, row: Callable[[str], Row | None]) -> Said:
    """The captions of a triplet, whose it is, and whether it is one.

    Args:
        read: the bytes of a piece of its tar.
        row: that of a key in the table beside the tar, None where there is none; asked only where it is needed.
    """
    if triplet.fault:
        captions: list[object] = [_text(read(triplet.text))] if triplet.text and not fields.captions else []
        return Said(captions, fault=triplet.fault)
    facts, fault = _facts(read(triplet.facts)) if triplet.facts else ({}, "")
    value: object = None
    if triplet.text and not fields.captions:
        value = _text(read(triplet.text))
    else:
        value = facts.get(fields.captions or "caption")
        if value is None and not fault:
            beside = row(triplet.key.rpartition("/")[2])
            if beside is not None:
                value = beside.get(fields.captions or "caption")
                facts = {key: beside[key] for key in ("status", "error_message") if key in beside} | facts
    captions = [] if value is None else list(value) if isinstance(value, list) else [value]
    identity = None
    if not fault and fields.identity is not None:
        given = facts.get(fields.identity)
        identity = str(given).strip() if isinstance(given, str | int) and not isinstance(given, bool) else ""
        identity = identity.encode(errors="ignore").decode()  # JSON can hold halves of characters
        fault = "" if identity else f"its json has no text or number {fields.identity!r}"
    status = facts.get("status", "success")
    if not fault and status != "success":
        fault = tar.shown(f"its status is {status}: {facts.get('error_message') or 'without a message'}")
    if not fault and triplet.image is None and triplet.dotted:
        fault = f"{tar.shown(triplet.dotted)} is no image of a key, which ends at the first dot"
    if not fault and triplet.image is None and triplet.facts is not None:
        fault = "no image in its sample"
    return Said(captions, identity, fault)


def _large(name: str, part: Part, size: int) -> str:
    most = IMAGE_BYTES_MAX if part == "image" else TEXT_BYTES_MAX
    return f"{tar.shown(name)} has {size} bytes; at most {most} are read" if size > most else ""


def _text(content: bytes) -> str | bytes:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content  # refused as what is not text


def _facts(content: bytes) -> tuple[dict[str, Any], str]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        return {}, f"its json is not readable: {tar.shown(' '.join(str(error).split()))}"
    return (facts, "") if isinstance(facts, dict) else ({}, "its json is not an object")
