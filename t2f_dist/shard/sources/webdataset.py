"""A WebDataset in the layout of img2dataset: tars of {key}.jpg (or .png, .webp ...), {key}.txt and {key}.json.

https://github.com/rom1504/img2dataset. A key is a member's name up to the first dot after the last slash. The caption
is the text file, or where there is none, `caption` of the JSON; a sample whose JSON has a `status` other than success
is refused. The bytes of an image stay in the tar, and are read from their place in it; nothing is unpacked.

A member that is a link, a device or a sparse file, or whose name leads out of the folder, makes its whole sample
refused. Of a key that stands twice in a tar, the first counts; in two tars, it is two samples. Compressed tars
are not read: an image in them has no place of its own.
"""

import glob
import json
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.sources import IMAGE_SUFFIXES, ORPHANED, Mention, Picture, Raw, Refusal, Source, walk

TEXT_BYTES_MAX = 1 << 20  # of a caption or a JSON


@dataclass(frozen=True)
class Slice:
    """Bytes at a place in a file. `read` raises OSError, or ValueError where the file has become shorter."""

    path: str
    offset: int
    length: int

    def read(self) -> bytes:
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            content = stream.read(self.length)
        if len(content) != self.length:
            raise ValueError(f"{len(content)} bytes in the tar where its header says {self.length}")
        return content


@dataclass
class _Sample:
    image: tuple[str, Slice] | None = None  # its suffix, and where it stands
    text: Slice | None = None
    facts: Slice | None = None
    fault: str = ""  # of a member that is refused


@dataclass
class _Found:
    pictures: dict[str, Picture] = field(default_factory=dict)
    mentions: list[Mention] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def read(recipe: ShardRecipe) -> Raw:
    """The layout `webdataset`: images and captions of the tars of a folder, of a glob, or of one file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a tar is cut off, damaged or compressed.
    """
    root, tars = _tars(recipe.faces)
    found = _Found()
    for tar in tars:
        samples = _members(root / tar, tar.removesuffix(".tar"), found.refusals)
        for key, sample in samples.items():
            _add(f"{tar.removesuffix('.tar')}/{key}", key, tar, sample, recipe, found)
    if not found.pictures and not found.refusals:
        raise ValueError(f"no image in the tars of {recipe.faces} (such as {tars[0]})")
    pictures = dict(sorted(found.pictures.items()))
    captions = Source(root, found.mentions)
    return Raw(pictures, lambda name, _: name if name in pictures else None, captions, refusals=found.refusals)


def _tars(place: str) -> tuple[Path, list[str]]:
    """The folder to which the names of the tars are relative, and the names, sorted."""
    path = Path(place)
    if path.is_dir():
        root, names = path, walk(path, frozenset([".tar"]))
    elif path.is_file():
        root, names = path.parent, [path.name]
    else:
        root = Path(place[: min((place.find(sign) for sign in "*?[" if sign in place), default=0)] + "x").parent
        found = [name for name in glob.glob(place, recursive=True) if os.path.isfile(name)]
        names = sorted(Path(name).relative_to(root).as_posix() for name in found)
    if not names:
        raise FileNotFoundError(f"no .tar at {place}; expected a folder, a file, or a pattern such as 'data/*.tar'")
    return root, names


def _members(path: Path, shown: str, refusals: list[Refusal]) -> dict[str, _Sample]:
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                parent, _, base = name.rpartition("/")
                stem, _, suffix = base.partition(".")
                kind = (
                    "image" if f".{suffix.lower()}" in IMAGE_SUFFIXES else {"txt": "text", "json": "facts"}.get(suffix)
                )
                if member.isdir() or not stem or kind is None:
                    continue
                key = f"{parent}/{stem}" if parent else stem
                sample = samples.setdefault(key, _Sample())
                fault = _fault(member, name, kind)
                if fault:
                    sample.fault = sample.fault or fault
                    continue
                place = Slice(str(path), member.offset_data, member.size)
                if kind == "facts":
                    sample.facts = sample.facts or place
                elif kind == "text" and sample.text is None:
                    sample.text = place
                elif kind == "image" and sample.image is None:
                    sample.image = suffix, place
                else:
                    refusals.append(_repeated(kind, f"{shown}/{key}.{suffix}", place, path))
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # a tar may have millions
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a whole tar without compression: {error}") from None
    if Slice(str(path), end, min(tarfile.BLOCKSIZE, path.stat().st_size - end)).read() != bytes(tarfile.BLOCKSIZE):
        raise ValueError(f"{path}: cut off or damaged after {end} bytes: no mark of its end; fetch it again")
    return samples


def _fault(member: tarfile.TarInfo, name: str, kind: str) -> str:
    """Why a member is not read."""
    if member.issym() or member.islnk():
        return f"{name} is a link"
    if not member.isreg() or member.issparse():
        return f"{name} is not a plain file"
    if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts:
        return f"{name} leads out of the folder"
    return f"{name} has {member.size} bytes" if kind != "image" and member.size > TEXT_BYTES_MAX else ""


def _repeated(kind: str, name: str, place: Slice, tar: Path) -> Refusal:
    reason = "its key stands twice in the tar"
    if kind == "image":
        return Refusal("images", "rejected", reason, name, where=tar.name)
    return Refusal("captions", "rejected", reason, name, place.read().decode("utf-8", "replace"), tar.name)


def _add(name: str, key: str, tar: str, sample: _Sample, recipe: ShardRecipe, found: _Found) -> None:
    facts, fault = _facts(sample.facts) if sample.facts and not sample.fault else ({}, sample.fault)
    caption = _caption(sample.text) if sample.text else facts.get("caption")
    identity = key
    if not fault and recipe.webdataset.identity_field is not None:
        value = facts.get(recipe.webdataset.identity_field)
        identity = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
        fault = "" if identity else f"its json has no text or number {recipe.webdataset.identity_field!r}"
    status = facts.get("status", "success")
    if not fault and status != "success":
        fault = f"its status is {status}: {facts.get('error_message') or 'without a message'}"
    if not fault and sample.image is None and sample.facts is not None:
        fault = "no image in its sample"
    if sample.image is not None:
        name = f"{name}.{sample.image[0]}"
    if fault:
        found.refusals.append(Refusal("images", "rejected", fault, name, where=tar))
        if caption is not None:
            found.refusals.append(Refusal("captions", "rejected", ORPHANED, name, str(caption), tar))
        return
    if sample.image is not None:
        found.pictures[name] = Picture(sample.image[1], identity)
    if caption is not None:  # of no image, it is counted as unmatched
        found.mentions.append(Mention(name, caption, None, tar))


def _caption(text: Slice) -> str | bytes:
    content = text.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content  # refused as what is not text


def _facts(place: Slice) -> tuple[dict[str, Any], str]:
    try:
        facts = json.loads(place.read())
    except (ValueError, RecursionError) as error:
        return {}, f"its json is not readable: {' '.join(str(error).split())}"
    return (facts, "") if isinstance(facts, dict) else ({}, "its json is not an object")
