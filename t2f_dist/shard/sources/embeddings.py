"""Embeddings of captions that a corpus brings in files beside its captions: NumPy or HDF5, never pickled or .t7.

Accepted, for the captions of the image STEM in the folder CLASS:

- a folder with `CLASS/STEM.npy`, [captions, D];
- a folder with `CLASS.npy`, [images, captions, D], the images in sorted order of their stems;
- a folder with `CLASS.npz`, or `CLASS.h5` or `.hdf5`, of arrays named STEM, [captions, D];
- one `.h5` or `.hdf5` file with datasets `CLASS/STEM`, [captions, D].

Row i belongs to the i-th line of the image's text file that is not blank.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from t2f_dist.shard.sources import Block, hdf5
from t2f_dist.storage import url
from t2f_dist.storage.folder import Folder
from t2f_dist.storage.patience import Unreachable
from t2f_dist.storage.stage import staged

HDF5_SUFFIXES = (".h5", ".hdf5")


BYTES_MAX = 1 << 30  # of one array of an archive: compressed, a small file may claim any size


@dataclass(frozen=True)
class NumpyBlock:
    """[captions, D] in a .npy, or in one image of a .npy [images, captions, D]; `path` may be a URL."""

    path: str
    image: int | None = None

    def read(self) -> np.ndarray:
        # A file of one image is read and let go; one of many images is kept beside, where it is remote.
        values = _npy(self.path, keep=self.image is not None)
        return _checked(values if self.image is None else values[self.image], url.shown(self.path))


@dataclass(frozen=True)
class ArchiveBlock:
    """[captions, D] in an array of a .npz; `path` may be a URL."""

    path: str
    name: str

    def read(self) -> np.ndarray:
        shown = url.shown(self.path)
        with _npz(self.path) as archive:
            try:
                size = archive.zip.getinfo(f"{self.name}.npy").file_size if archive.zip else 0
                values = archive[self.name] if size <= BYTES_MAX else None
            except Exception as error:  # on a broken archive NumPy and zipfile raise nearly anything
                _check_system(error, self.path)
                raise ValueError(f"{shown}: {self.name}: {_line(error)}") from None
            if values is None:
                raise ValueError(f"{shown}: {self.name}: {size} bytes; at most {BYTES_MAX} are read")
        return _checked(values, f"{shown}: {self.name}")


class Held:
    """The embeddings in a folder or URL, or in one HDF5 file.

    Raises:
        OSError: a URL cannot be listed.
        ValueError: a .t7 file.
    """

    def __init__(self, root: str):
        self.root = root
        path = url.local(root)
        if PurePosixPath(root).suffix == ".t7":
            _refuse_t7(root)
        self._single = path.is_file() if path is not None else root.endswith(HDF5_SUFFIXES)
        self._listed: frozenset[str] | None = None
        if path is None and not self._single:
            self._listed = frozenset(entry.name for entry in Folder(root).list())

    def of_class(self, name: str, stems: list[str]) -> dict[str, tuple[Block, tuple[int, ...]]]:
        """The array, and its shape [captions, D], of each image of a class that has one.

        Args:
            stems: of all text files of the class, sorted.

        Raises:
            ValueError: a .t7 file, an array of another number of images, or one that is not readable.
            OSError: a URL cannot be fetched.
        """
        if self._single:
            return dict(_of_hdf5(self.root, f"{name}/", stems))
        if self._has_folder(name):
            return dict(self._of_folder(name, stems))
        for suffix in (".npy", ".npz", *HDF5_SUFFIXES):
            if self._has(f"{name}{suffix}"):
                place = url.join(self.root, f"{name}{suffix}")
                read = {".npy": _of_npy, ".npz": _of_npz}.get(suffix)
                return dict(read(place, stems) if read else _of_hdf5(place, "", stems))
        if self._has(f"{name}.t7"):
            _refuse_t7(url.join(self.root, f"{name}.t7"))
        return {}

    def _of_folder(self, name: str, stems: list[str]) -> Iterator[tuple[str, tuple[Block, tuple[int, ...]]]]:
        for stem in stems:
            place = url.join(self.root, f"{name}/{stem}.npy")
            if self._has(f"{name}/{stem}.npy"):
                yield stem, (NumpyBlock(place), _npy(place, keep=False).shape)
            elif self._has(f"{name}/{stem}.t7"):
                _refuse_t7(url.join(self.root, f"{name}/{stem}.t7"))

    def _has(self, name: str) -> bool:
        return name in self._listed if self._listed is not None else Path(url.join(self.root, name)).is_file()

    def _has_folder(self, name: str) -> bool:
        if self._listed is None:
            return Path(self.root, name).is_dir()
        return any(each.startswith(f"{name}/") for each in self._listed)


def _refuse_t7(place: str) -> None:
    raise ValueError(
        f"{url.shown(place)} is a Lua Torch file, which is not read; load it with torchfile, transpose it to "
        f"[images, captions, D] and write it with numpy.save as {PurePosixPath(place).with_suffix('.npy').name}"
    )


def _of_npy(place: str, stems: list[str]) -> Iterator[tuple[str, tuple[Block, tuple[int, ...]]]]:
    shape = _npy(place, keep=True).shape
    if len(shape) != 3 or shape[0] != len(stems):
        raise ValueError(
            f"{url.shown(place)} is {list(shape)}, expected [{len(stems)} images, captions, D]: an image for each text "
            "file of its class, in sorted order"
        )
    for number, stem in enumerate(stems):
        yield stem, (NumpyBlock(place, number), shape[1:])


def _of_npz(place: str, stems: list[str]) -> Iterator[tuple[str, tuple[Block, tuple[int, ...]]]]:
    with _npz(place) as archive:
        there = set(archive.files)
    for stem in stems:
        if stem in there:
            block = ArchiveBlock(place, stem)
            yield stem, (block, block.read().shape)


def _of_hdf5(place: str, below: str, stems: list[str]) -> Iterator[tuple[str, tuple[Block, tuple[int, ...]]]]:
    with hdf5.opened(place) as file:
        group = hdf5.member(file, below.rstrip("/")) if below else file
        there = set(group) if group is not None else set()
        for stem in stems:
            if stem in there:
                shape = hdf5.dataset(group, stem).shape
                yield stem, (hdf5.Hdf5Block(place, f"{below}{stem}"), shape)


def _npy(place: str, keep: bool) -> np.ndarray:
    """An array, mapped; of a URL a local copy is, which stays for the run, or else its bytes are read."""
    whole = not keep and url.local(place) is None
    source = io.BytesIO(_content(place)) if whole else staged(place)
    try:
        return np.load(source, mmap_mode=None if whole else "r", allow_pickle=False)
    except Exception as error:  # on a broken file NumPy raises nearly anything
        _check_system(error, place)
        raise ValueError(f"{url.shown(place)}: not a NumPy array of numbers: {_line(error)}") from None


def _content(place: str) -> bytes:
    folder, name = url.split(place)
    return Folder(folder).read(name)


def _npz(place: str) -> np.lib.npyio.NpzFile:
    path, shown = staged(place), url.shown(place)
    try:
        archive = np.load(path, allow_pickle=False)
    except Exception as error:  # as of an array
        _check_system(error, place)
        raise ValueError(f"{shown}: not a NumPy archive: {_line(error)}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{shown}: not a NumPy archive but a single array")
    return archive


def _check_system(error: Exception, place: str) -> None:
    """Raises Unreachable for an error of the system, which says nothing of the file."""
    if isinstance(error, OSError) and error.errno is not None:
        raise Unreachable(f"{url.shown(place)}: {error.strerror}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _checked(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{where}: values of type {values.dtype}, expected numbers")
    values = np.array(values, dtype=np.float32, ndmin=2)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: values that are not finite")
    return values
