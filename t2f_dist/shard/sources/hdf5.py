"""The HDF5 files of Text-to-Image-Synthesis: `train|valid|test` / example / `name img embeddings class txt`.

Written by the conversion scripts of https://github.com/aelnouby/Text-to-Image-Synthesis (Reed et al., Generative
Adversarial Text to Image Synthesis, ICML 2016, on CUB birds and Oxford flowers). `img` holds the bytes of the image
file; `txt`, a caption; `embeddings`, its vector; `class`, the name of the class, which is the identity here.

An image stands once for each of its captions there, as NAME_0, NAME_1 and so on. Examples with the same `name` are one
image with several captions, in the order of the examples' own names. The bytes are those of the first; an example of
the same name whose image has another length is another picture, so its caption is refused. The class of all must agree.

Only data inside the file is read: links to elsewhere, external storage and virtual datasets are refused.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.manifest import SplitName
from t2f_dist.shard.sources import Mention, Picture, Raw, Refusal, Source
from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder
from t2f_dist.storage.patience import Unreachable
from t2f_dist.storage.stage import staged

BYTES_MAX = 1 << 30  # of one dataset: compressed, a small file may claim any size
# The groups of the file, and the sides of the split that they are.
GROUPS: dict[str, SplitName] = {"train": "train", "valid": "validation", "test": "test"}


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """An HDF5 file, open for reading; of a URL, a copy that is kept for the run.

    Raises:
        OSError: a URL cannot be fetched; Unreachable, where the system does not let it be read.
        ValueError: h5py is missing, or the file is not HDF5, cut off or damaged.
    """
    try:
        import h5py  # here, since only these layouts need it
    except ImportError:
        raise ValueError(
            f"{url.shown(path)}: reading HDF5 needs h5py: `make install` brings it; else `pip install -e '.[hdf5]'` in "
            "a clone"
        ) from None
    here = staged(path)
    try:
        with h5py.File(here, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # which of them depends on where the damage is
        if isinstance(error, Unreachable):
            raise
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # of the system
            raise Unreachable(f"{url.shown(path)}: {os.strerror(error.errno)}") from None
        raise ValueError(f"{url.shown(path)}: not a whole HDF5 file: {' '.join(str(error).split())}") from None


def member(group: Any, name: str) -> Any:
    """A group or dataset that stands in the file itself, or None.

    Raises:
        ValueError: a link to another place or file, or a dataset whose values stand in another file.
    """
    import h5py

    link = group.get(name, getlink=True)
    if link is None:
        return None
    where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{where} is a link to another place; only what stands in the file itself is read")
    found = group[name]
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise ValueError(f"{where} has its values in another file; only what stands in the file itself is read")
    return found


def dataset(group: Any, name: str) -> Any:
    """As `member`, of a dataset that must be there. Raises ValueError also where it is not."""
    import h5py

    found = member(group, name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{group.file.filename}: {group.name.rstrip('/')} has no dataset {name!r}")
    if found.nbytes > BYTES_MAX:
        raise ValueError(f"{group.file.filename}: {found.name} claims {found.nbytes} bytes, more than {BYTES_MAX}")
    return found


def walked(file: Any, path: str) -> Any:
    """The dataset at `a/b/c`, each step as `member`."""
    *groups, name = path.split("/")
    for step in groups:
        file = member(file, step)
        if file is None:
            raise ValueError(f"no group {step!r} on the way to {path}")
    return dataset(file, name)


@dataclass(frozen=True)
class Bytes:
    """The content of an image in a dataset: opaque, a string, or an array of bytes."""

    path: str
    dataset: str

    @property
    def is_remote(self) -> bool:
        return False  # of a URL, a copy is read

    def read(self) -> bytes:
        with opened(self.path) as file:
            value = walked(file, self.dataset)[()]
        if isinstance(value, bytes):
            return value
        array = np.asarray(value)
        if array.dtype.kind not in "VSui" or (array.dtype.kind in "ui" and array.dtype.itemsize != 1):
            raise ValueError(f"{self.dataset} holds values of type {array.dtype}, not the bytes of an image file")
        return array.tobytes()


@dataclass(frozen=True)
class Hdf5Block:
    """Embeddings in a dataset, [D] or [rows, D]."""

    path: str
    dataset: str

    def read(self) -> np.ndarray:
        with opened(self.path) as file:
            found = walked(file, self.dataset)
            if found.dtype.kind not in "fiu":
                raise ValueError(f"{self.path}: {self.dataset} holds values of type {found.dtype}, not numbers")
            values = np.atleast_2d(np.asarray(found[()], dtype=np.float32))
        if not np.isfinite(values).all():
            raise ValueError(f"{self.path}: {self.dataset} has values that are not finite")
        return values


def read(recipe: ShardRecipe) -> Raw:
    """The layout `hdf5`: images and captions of one file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of this layout, or an image that stands on two sides of the split that is asked for.
    """
    path = url.check(recipe.faces)
    shown = url.shown(path)
    folder, name = url.split(path)
    if not name or Folder(folder).entry(name) is None:
        raise FileNotFoundError(f"no such HDF5 file: {shown}")
    reader = _Reader(path, recipe)
    with opened(path) as file:
        groups = [name for name in GROUPS if member(file, name) is not None]
        if not groups:
            raise ValueError(f"{shown}: none of the groups {', '.join(GROUPS)}, only {', '.join(file) or 'nothing'}")
        for side in groups:
            group = _group(member(file, side), f"{shown}: {side}")
            for example in sorted(group):
                reader.add(side, example, member(group, example))
    if not reader.pictures:
        raise ValueError(f"{shown}: no example in {', '.join(groups)}")
    pictures = dict(sorted(reader.pictures.items()))
    mentions = Source(folder, reader.mentions)
    return Raw(pictures, lambda name, _: name if name in pictures else None, mentions, refusals=reader.refusals)


class _Reader:
    def __init__(self, path: str, recipe: ShardRecipe):
        self.path = path
        self.shown = url.shown(path)
        self.recipe = recipe
        self.pictures: dict[str, Picture] = {}
        self.lengths: dict[str, int] = {}
        self.size: int | None = None  # of an embedding
        self.mentions: list[Mention] = []
        self.refusals: list[Refusal] = []

    def add(self, side: str, example: str, group: Any) -> None:
        where = f"{side}/{example}"
        _group(group, f"{self.shown}: {where}")
        name = _text(dataset(group, "name")[()], f"{self.shown}: {where}/name").strip()
        identity = self._identity(group, where)
        image = dataset(group, "img")
        length = image.nbytes
        captions = self._captions(group, where)
        if name not in self.pictures:
            self.pictures[name] = Picture(Bytes(self.path, f"{where}/img"), identity, GROUPS[side])
            self.lengths[name] = length
        elif self.recipe.split.given and self.pictures[name].split != GROUPS[side]:
            raise ValueError(
                f"{self.shown}: the image {name} stands in {where} and on another side too; set split.given=false"
            )
        elif self.lengths[name] != length:
            reason = f"its image has {length} bytes, another of the same name {self.lengths[name]}"
            self.refusals += [Refusal("captions", "rejected", reason, name, caption, where) for caption in captions]
            return
        for row, caption in enumerate(captions):
            embedding = (Hdf5Block(self.path, f"{where}/embeddings"), row) if self.recipe.brings_embeddings else None
            self.mentions.append(Mention(name, caption, identity, f"{url.name(self.path)}: {where}", embedding))

    def _identity(self, group: Any, where: str) -> str | None:
        found = member(group, "class")
        return None if found is None else _text(found[()], f"{self.shown}: {where}/class").strip() or None

    def _captions(self, group: Any, where: str) -> list[str]:
        """The captions of an example, as many as it has embeddings where these are to be stored."""
        place = f"{self.shown}: {where}"
        value = dataset(group, "txt")[()]
        texts = [_text(text, f"{place}/txt") for text in np.atleast_1d(np.asarray(value, dtype=object)).ravel()]
        if not self.recipe.brings_embeddings:
            return texts
        shape = dataset(group, "embeddings").shape
        rows, size = (1, *shape) if len(shape) == 1 else shape if len(shape) == 2 else (0, 0)
        if rows != len(texts):
            raise ValueError(
                f"{place}: embeddings {list(shape)} for {len(texts)} captions, expected [D] or [captions, D]; "
                "set hdf5.embeddings=false to leave them out"
            )
        if self.size not in (None, size):
            raise ValueError(f"{place}: an embedding of {size} values, where those before have {self.size}")
        self.size = size
        return texts


def _group(found: Any, where: str) -> Any:
    import h5py

    if not isinstance(found, h5py.Group):
        raise ValueError(f"{where} is not a group; expected train, valid, test / example / name, img, txt and so on")
    return found


def _text(value: Any, where: str) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not text in UTF-8 ({error.reason})") from None
    if not isinstance(value, str):
        raise ValueError(f"{where} is not text but {type(value).__name__}")
    return value
