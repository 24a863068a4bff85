"""What readers make of files that were changed: each victim is read whole, and what it gives must be right or refused.

A victim takes mutations and says what became of it. What it raises itself is an escape: neither the right bytes, nor
damage that was found.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from PIL import Image
from pyarrow import parquet

from t2f_dist.config.index import IndexRecipe
from t2f_dist.config.recipe import ImageRecipe
from t2f_dist.data.image import decode, decode_foreign
from t2f_dist.data.speech import listen
from t2f_dist.shard import format as shard_format
from t2f_dist.shard import index as shard_index
from t2f_dist.shard import parquet as table
from t2f_dist.shard import triplet
from t2f_dist.shard.manifest import INDEX_HEADER_BYTES, INDEX_RECORD_BYTES, MANIFEST, REJECTED, Manifest, digest
from t2f_dist.shard.picture import opened, rgb, square
from t2f_dist.shard.sources.embeddings import ArchiveBlock, NumpyBlock
from t2f_dist.shard.triplet import Fields
from t2f_dist.text.vocabulary import Vocabulary
from tests.data import mixed
from tests.shard import img2dataset
from tests.shard.judge import Escape, check, contents, refusal
from tests.shard.mutation import Mutations, altered, mutated
from tests.shard.raw import encoded
from tests.shard.tars import FORMATS, signed

BLOCK = 512


class Victims:
    """The files that are changed, made once in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.recipe = ImageRecipe(resolution=16)
        self.own = mixed.write(folder / "own")
        (self.own / REJECTED).touch()
        self.foreign = img2dataset.corpus(folder / "cc3m", num_tars=1, each=9)
        recipe = IndexRecipe(
            tars=(str(self.foreign),),
            out=str(self.foreign),
            image=self.recipe,
            split={"validation": 0.3, "test": 0},  # pyright: ignore[reportArgumentType]
        )
        shard_index.index(recipe, 1, progress=False)

    @cached_property
    def names(self) -> dict[str, Callable[[Mutations], str]]:
        """Name -> the victim."""
        found: dict[str, Callable[[Mutations], str]] = {}
        for form in FORMATS:
            found[f"tar, {form}"] = lambda mutations, form=form: self._tar(mutations, form)
        for kind, home in (("own", self.own), ("foreign", self.foreign)):
            manifest = Manifest.load(home)
            shard = manifest.shards("train")[0]
            for what, name in (("tar", shard.name), ("index", shard.index), ("small", shard.small)):
                found[f"{kind} {what}"] = self._of_shards(home, name)
            found[f"{kind} index, signed"] = self._of_shards(home, shard.index, self._sign_index)
            found[f"{kind} manifest"] = self._of_shards(home, MANIFEST)
            found[f"{kind} manifest, signed"] = self._of_shards(home, MANIFEST, self._alter_manifest)
        for name, content in self._pictures.items():
            found[f"image, {name}"] = lambda mutations, content=content: self._image(mutated(content, mutations))
        found["voice"] = self._voice
        found["vocabulary"] = self._vocabulary
        found["embeddings"] = self._embeddings
        found["array"] = lambda mutations: self._arrays(mutations, "npy")
        found["archive"] = lambda mutations: self._arrays(mutations, "npz")
        found["facts"] = self._facts
        found["table"] = self._table
        return found

    # Tars of others

    def _tar(self, mutations: Mutations, form: str) -> str:
        path = self.folder / "changed.tar"
        before = self._tars[form]
        content = mutated(before, mutations, BLOCK)
        if mutations[0].value % 3:
            content = resigned(content)
        path.write_bytes(content)
        try:
            found, repeated = triplet.triplets(path)
        except Exception as error:
            return refusal(error)
        if content == before:
            return "same"
        expected = tarfile_members(path)
        with open(path, "rb") as stream:
            for each in found.values():
                for piece in (each.image, each.text, each.facts):
                    if piece and (piece.offset, piece.size) not in expected:
                        raise Escape(f"{each.key}: {piece} is no member that tarfile finds")
                triplet.said(each, lambda p: os.pread(stream.fileno(), p.size, p.offset), Fields(), lambda _: None)
        listed = {part for each in found.values() for part in (each.image, each.text, each.facts) if part}
        listed |= {each.piece for each in repeated}
        plain = {place for place, name in expected.items() if re.fullmatch(r"[\w./-]+\.(jpg|png|webp|txt|json)", name)}
        shadowed = {tuple(each.facts) for each in found.values() if each.facts}  # a second JSON is not counted
        if not any(each.fault for each in found.values()) and len(plain) > len(listed) and len(shadowed) == len(found):
            facts = sum(name.endswith(".json") for name in expected.values())
            if len(plain) - len(listed) > facts - len(shadowed):
                raise Escape(f"{len(plain)} members by tarfile, {len(listed)} by us")
        return "other members"

    @cached_property
    def _tars(self) -> dict[str, bytes]:
        found = {}
        for name, form in FORMATS.items():
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
                for number in range(3):
                    for member, content in img2dataset.sample(f"{number:09d}"):
                        assert isinstance(content, bytes)
                        header = tarfile.TarInfo(("d" * 60 + "/") * (2 * (number == 1)) + member)
                        header.size = len(content)
                        header.mtime = 0.5 if name == "pax" else 0  # pyright: ignore[reportAttributeAccessIssue]
                        archive.addfile(header, io.BytesIO(content))
            found[name] = stream.getvalue()
        return found

    # Directories of shards

    def _of_shards(
        self, home: Path, name: str, change: Callable[[Path, str, Mutations], None] | None = None
    ) -> Callable[[Mutations], str]:
        right = contents(home)

        def victim(mutations: Mutations) -> str:
            copy = self.folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(home, copy)
            try:
                if change:
                    change(copy, name, mutations)
                else:
                    path = copy / name
                    path.write_bytes(mutated(path.read_bytes(), mutations, BLOCK))
                return check(copy, right, honest=change is None)
            finally:
                shutil.rmtree(copy)

        return victim

    def _sign_index(self, copy: Path, name: str, mutations: Mutations) -> None:
        """The records changed, and the manifest made to agree."""
        content = (copy / name).read_bytes()
        start = content.index(b"\n") + 1 if mutations[0].value % 4 else 0
        changed = content[:start] + mutated(content[start:], mutations, shard_format.INDEX_DTYPE.itemsize)
        (copy / name).write_bytes(changed)
        manifest = json.loads((copy / MANIFEST).read_bytes())
        num = (len(changed) - INDEX_HEADER_BYTES) // INDEX_RECORD_BYTES if mutations[0].value % 3 else None
        for split in manifest["splits"].values():
            for shard in split["shards"]:
                if shard["index"] == name:
                    shard["index_sha256"] = digest(changed)
                    if num is not None:
                        shard["index_bytes"] = INDEX_HEADER_BYTES + num * INDEX_RECORD_BYTES
                        split["num_samples"] += num - shard["num_samples"]
                        shard["num_samples"] = num
        write_manifest(copy, manifest)

    def _alter_manifest(self, copy: Path, name: str, mutations: Mutations) -> None:
        write_manifest(copy, altered(json.loads((copy / name).read_bytes()), mutations))

    # Single members

    @cached_property
    def _pictures(self) -> dict[str, bytes]:
        found = {
            name: encoded(1, name, (32, 32))
            for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM", "TGA", "AVIF")
        }
        stream = io.BytesIO()
        Image.new("RGB", (64, 64), "teal").save(stream, "JPEG", progressive=True, exif=Image.Exif())
        return found | {"progressive JPEG": stream.getvalue()}

    def _image(self, content: bytes) -> str:
        outcomes = set()
        for read in (
            lambda: brought(content, self.recipe).size == (16, 16),
            lambda: decode_foreign(content, 16, self.recipe).shape == (3, 16, 16),
            lambda: decode(content, 8, 32).shape == (3, 8, 8),
        ):
            try:
                if not read():
                    raise Escape("a picture of another size than was asked for")
                outcomes.add("decoded")
            except Exception as error:
                outcomes.add(refusal(error))
        return " or ".join(sorted(outcomes))

    def _voice(self, mutations: Mutations) -> str:
        stream = io.BytesIO()
        soundfile.write(stream, np.arange(3000, dtype=np.int16), 16_000, format="FLAC", subtype="PCM_16")
        try:
            samples = listen(mutated(stream.getvalue(), mutations), 0.1, 0.5)
        except Exception as error:
            return refusal(error)
        if samples.dtype != np.int16 or samples.ndim != 1 or len(samples) > 70_000:
            raise Escape(f"{samples.dtype} {samples.shape}")
        return "decoded"

    def _vocabulary(self, mutations: Mutations) -> str:
        text = Vocabulary(mixed.WORDS).to_json()
        if mutations[0].value % 2:
            text = json.dumps(altered(json.loads(text), mutations))
        try:
            vocabulary = Vocabulary.from_json(mutated(text.encode(), mutations[1:]).decode())
        except Exception as error:
            return refusal(error)
        return "same" if vocabulary.words == mixed.WORDS else "other words"

    def _embeddings(self, mutations: Mutations) -> str:
        stream = io.BytesIO()
        np.save(stream, np.arange(40, dtype="<f4").reshape(4, 10))
        try:
            array = shard_format.embeddings(mutated(stream.getvalue(), mutations))
        except Exception as error:
            return refusal(error)
        if array.dtype != np.float32 or array.ndim != 2 or not np.isfinite(array).all():
            raise Escape(f"{array.dtype} {array.shape}")
        return "other values"

    def _arrays(self, mutations: Mutations, suffix: str) -> str:
        path = self.folder / f"class.{suffix}"
        with open(path, "wb") as stream:
            if suffix == "npy":
                np.save(stream, np.arange(60, dtype=np.float32).reshape(2, 3, 10))
            else:
                np.savez_compressed(stream, x=np.ones((3, 10), np.float32), y=np.ones((3, 10), np.float32))
        path.write_bytes(mutated(path.read_bytes(), mutations))
        block = NumpyBlock(str(path), 1) if suffix == "npy" else ArchiveBlock(str(path), "y")
        try:
            array = block.read()
        except Exception as error:
            return refusal(error)
        return f"other values, {array.ndim} axes"

    def _facts(self, mutations: Mutations) -> str:
        content = img2dataset.facts("000000001")
        if mutations[0].value % 2:
            content = json.dumps(altered(json.loads(content), mutations)).encode()
        content = mutated(content, mutations[1:])
        one = triplet.Triplet("000000001", 0, "jpg", triplet.Piece(512, 10), facts=triplet.Piece(2048, len(content)))
        said = triplet.said(one, lambda _: content, Fields("caption", "album"), lambda _: None)
        if said.fault:
            if "\n" in said.fault or len(said.fault) > 300:
                raise Escape(said.fault)
            return "refused"
        assert said.identity is not None
        said.identity.encode()
        return "read"

    def _table(self, mutations: Mutations) -> str:
        path = self.folder / "00000.parquet"
        columns = {"key": ["000", "001"], "caption": ["a", None], "status": ["success", "failed"]}
        parquet.write_table(pa.table(columns), path)
        path.write_bytes(mutated(path.read_bytes(), mutations))
        try:
            table.rows(path, ("caption", "status"))
        except Exception as error:
            return refusal(error)
        return "read"


def brought(content: bytes, recipe: ImageRecipe) -> Image.Image:
    """A picture as `shard` and `index` bring it to a square."""
    found = opened(lambda: content, recipe)
    return square(rgb(found.image, recipe), recipe, size=found.size)


def resigned(content: bytes) -> bytes:
    """With a right checksum for every block that has the mark of a header."""
    for position in range(0, len(content) - BLOCK + 1, BLOCK):
        if content[position + 257 : position + 262] == b"ustar":
            content = signed(content, position)
    return content


def tarfile_members(path: Path) -> dict[tuple[int, int], str]:
    """(offset, size) -> name of the plain files that Python's own reader finds."""
    with tarfile.open(path, "r:") as archive:
        return {(each.offset_data, each.size): each.name for each in archive if each.isreg()}


def write_manifest(folder: Path, content: Any) -> None:
    """With a right checksum, whatever else it says."""
    if isinstance(content, dict):
        content.pop("checksum", None)
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
        content["checksum"] = digest(canonical)
    (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
