"""Embeddings of captions that a corpus brings in files beside its captions: NumPy or HDF5, never pickled or .t7.

Accepted, for the captions of the image STEM in the folder CLASS:

- a folder with `CLASS/STEM.npy`, [captions, D];
- a folder with `CLASS.npy`, [images, captions, D], the images in sorted order of their stems;
- a folder with `CLASS.npz`, or `CLASS.h5` or `.hdf5`, of arrays named STEM, [captions, D];
- one `.h5` or `.hdf5` file with datasets `CLASS/STEM`, [captions, D].

Row i belongs to the i-th line of the image's text file that is not blank.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2f_dist.shard.sources import Block, hdf5

HDF5_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class NumpyBlock:
    """[captions, D] in a .npy, or in one image of a .npy [images, captions, D]."""

    path: str
    image: int | None = None

    def read(self) -> np.ndarray:
        values = _npy(Path(self.path))
        return _checked(values if self.image is None else values[self.image], self.path)


@dataclass(frozen=True)
class ArchiveBlock:
    """[captions, D] in an array of a .npz."""

    path: str
    name: str

    def read(self) -> np.ndarray:
        with _npz(Path(self.path)) as archive:
            try:
                values = archive[self.name]
            except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
                raise ValueError(f"{self.path}: {self.name}: {' '.join(str(error).split())}") from None
        return _checked(values, f"{self.path}: {self.name}")


def of_class(root: Path, name: str, stems: list[str]) -> dict[str, tuple[Block, tuple[int, ...]]]:
    """The array, and its shape [captions, D], of each image of a class that has one.

    Args:
        root: the folder, or the one HDF5 file.
        stems: of all text files of the class, sorted.

    Raises:
        ValueError: a .t7 file, an array of another number of images, or one that is not readable.
    """
    if root.suffix == ".t7":
        _refuse_t7(root)
    if root.is_file():
        return dict(_of_hdf5(root, f"{name}/", stems))
    folder = root / name
    if folder.is_dir():
        return dict(_of_folder(folder, stems))
    for suffix in (".npy", ".npz", *HDF5_SUFFIXES):
        path = root / f"{name}{suffix}"
        if path.is_file():
            read = {".npy": _of_npy, ".npz": _of_npz}.get(suffix)
            return dict(read(path, stems) if read else _of_hdf5(path, "", stems))
    _refuse_t7(root / f"{name}.t7")
    return {}


def _refuse_t7(path: Path) -> None:
    if path.is_file():
        raise ValueError(
            f"{path} is a Lua Torch file, which is not read; load it with torchfile, transpose it to "
            f"[images, captions, D] and write it with numpy.save as {path.with_suffix('.npy').name}"
        )


def _of_folder(folder: Path, stems: list[str]) -> Iterator[tuple[str, tuple[Block, tuple[int, ...]]]]:
    for stem in stems:
        path = folder / f"{stem}.npy"
        if path.is_file():
            yield stem, (NumpyBlock(str(path)), _npy(path).shape)
        else:
            _refuse_t7(folder / f"{stem}.t7")


def _of_npy(path: Path, stems: list[str]) -> Iterator[tuple[str, tuple[Block, tuple[int, ...]]]]:
    shape = _npy(path).shape
    if len(shape) != 3 or shape[0] != len(stems):
        raise ValueError(
            f"{path} is {list(shape)}, expected [{len(stems)} images, captions, D]: an image for each text file of its "
            "class, in sorted order"
        )
    for number, stem in enumerate(stems):
        yield stem, (NumpyBlock(str(path), number), shape[1:])


def _of_npz(path: Path, stems: list[str]) -> Iterator[tuple[str, tuple[Block, tuple[int, ...]]]]:
    with _npz(path) as archive:
        there = set(archive.files)
    for stem in stems:
        if stem in there:
            block = ArchiveBlock(str(path), stem)
            yield stem, (block, block.read().shape)


def _of_hdf5(path: Path, below: str, stems: list[str]) -> Iterator[tuple[str, tuple[Block, tuple[int, ...]]]]:
    with hdf5.opened(path) as file:
        group = hdf5.member(file, below.rstrip("/")) if below else file
        there = set(group) if group is not None else set()
        for stem in stems:
            if stem in there:
                shape = hdf5.dataset(group, stem).shape
                yield stem, (hdf5.Hdf5Block(str(path), f"{below}{stem}"), shape)


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a NumPy array of numbers: {' '.join(str(error).split())}") from None


def _npz(path: Path) -> np.lib.npyio.NpzFile:
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a NumPy archive: {' '.join(str(error).split())}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: not a NumPy archive but a single array")
    return archive


def _checked(values: np.ndarray, where: str) -> np.ndarray:
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{where}: values of type {values.dtype}, expected numbers")
    values = np.array(values, dtype=np.float32, ndmin=2)
    if not np.isfinite(values).all():
        raise ValueError(f"{where}: values that are not finite")
    return values
