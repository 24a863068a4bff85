"""A folder of images, and the finding of the image that a caption or a voice names."""

import os
from collections import defaultdict
from pathlib import Path

from t2f_dist.shard.sources import IMAGE_SUFFIXES, Ambiguous, File, Picture, bare, files
from t2f_dist.storage import url


class Faces:
    """The images below a folder or URL.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it, or a web server, whose files cannot be listed.
    """

    def __init__(self, root: str | Path):
        path = url.local(root)
        self.root = str(root) if path is None else str(path)
        shown = url.shown(root)
        if path is not None and not path.is_dir():
            raise FileNotFoundError(f"no such folder of faces: {shown}")
        if url.scheme(self.root) in ("http", "https"):
            raise ValueError(
                f"faces {shown}: images on a web server cannot be listed; name a bucket (s3://, gs://, hf://) or a "
                "folder, or pack them in tars and index those"
            )
        self.files = {entry.name: entry for entry in files(self.root, IMAGE_SUFFIXES)}
        self.paths = list(self.files)
        if not self.paths:
            raise ValueError(f"no image below {shown} (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")
        self._by_stem = defaultdict(list)
        for name in self.paths:
            self._by_stem[_stem(name)].append(name)
        self._absolute = os.path.abspath(self.root) if path is not None else self.root.rstrip("/")

    def pictures(self) -> dict[str, Picture]:
        return {name: Picture(File(self.root, *entry)) for name, entry in self.files.items()}

    def find(self, image: str, folder: str | Path) -> str | None:
        """The image that is named, as a path relative to the root, or None.

        In this order: the path itself, relative to the root; the path relative to `folder`, where the table stands;
        the only image of the same stem, whose folders must agree with those of the name, from the last backwards, as
        far as both have them. So `Bob/Bob_1.bmp` finds `lfw/Bob/Bob_1.jpg` and `Bob_1.jpg`, never `Ann/Bob_1.jpg`.

        Raises:
            Ambiguous: several images fit.
        """
        image = image.strip().replace("\\", "/")
        path = os.path.normpath(image)
        if path in self.files:
            return path
        absolute = url.beside(folder, image) or ""
        beside = absolute.removeprefix(self._absolute + "/") if absolute.startswith(self._absolute + "/") else ""
        if beside in self.files:
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
