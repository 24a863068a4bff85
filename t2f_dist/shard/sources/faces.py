"""A folder of images, and the finding of the image that a caption or a voice names."""

import os
from collections import defaultdict
from pathlib import Path

from t2f_dist.shard.sources import IMAGE_SUFFIXES, Ambiguous, File, Picture, bare, walk


class Faces:
    """The images below a folder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"no such folder of faces: {root}")
        self.paths = walk(self.root, IMAGE_SUFFIXES)
        if not self.paths:
            raise ValueError(f"no image below {root} (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")
        self._paths = frozenset(self.paths)
        self._by_stem = defaultdict(list)
        for path in self.paths:
            self._by_stem[_stem(path)].append(path)
        self._absolute = os.path.abspath(self.root)

    def pictures(self) -> dict[str, Picture]:
        root = str(self.root)
        return {path: Picture(File(root, path)) for path in self.paths}

    def find(self, image: str, folder: Path) -> str | None:
        """The image that is named, as a path relative to the root, or None.

        In this order: the path itself, relative to the root; the path relative to `folder`, where the table stands;
        the only image of the same stem, whose folders must agree with those of the name, from the last backwards, as
        far as both have them. So `Bob/Bob_1.bmp` finds `lfw/Bob/Bob_1.jpg` and `Bob_1.jpg`, never `Ann/Bob_1.jpg`.

        Raises:
            Ambiguous: several images fit.
        """
        image = image.strip().replace("\\", "/")
        path = os.path.normpath(image)
        if path in self._paths:
            return path
        absolute = os.path.normpath(os.path.join(os.path.abspath(folder), image))
        beside = absolute.removeprefix(self._absolute + os.sep) if absolute.startswith(self._absolute + os.sep) else ""
        if beside in self._paths:
            return beside
        fitting = [found for found in self._by_stem.get(_stem(path), ()) if _agree(found, path)]
        if len(fitting) > 1:
            exact = [
                found
                for found in fitting
                if bare(found, IMAGE_SUFFIXES) in (bare(path, IMAGE_SUFFIXES), bare(beside, IMAGE_SUFFIXES))
            ]
            fitting = exact if len(exact) == 1 else fitting
        if len(fitting) > 1:
            raise Ambiguous(f"fits {len(fitting)} images ({', '.join(fitting[:2])}); name it by its path")
        return fitting[0] if fitting else None


def _stem(path: str) -> str:
    return bare(path.rpartition("/")[2], IMAGE_SUFFIXES)


def _agree(one: str, other: str) -> bool:
    return all(a == b for a, b in zip(reversed(one.split("/")[:-1]), reversed(other.split("/")[:-1])))
