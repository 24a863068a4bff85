"""What there is to train: the configurations of a folder, a line each, from their headers and their options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from t2f_dist.config.load import read_yaml, resolve
from t2f_dist.config.schema import Config


class Entry(NamedTuple):
    path: Path
    title: str  # the first sentence of the header
    condition: str
    network: str
    resolution: int
    num_images: int

    def line(self, width: int) -> str:
        """`width`: of the column of names."""
        figures = f"{self.condition:<16} {self.network:<7} {self.resolution:>4} px {self.num_images:>10,} images"
        return f"{self.path.stem:<{width}}  {figures}  {self.title}"


def catalogue(folder: Path) -> list[Entry]:
    """Every .yaml of a folder, by name.

    Raises FileNotFoundError where there is none, ValueError for one that is no configuration.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}; name `configs` of a clone of t2f-dist, or your own")
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise FileNotFoundError(
            f"no configuration (.yaml) in {folder}: name the folder `configs` of a clone of t2f-dist, or your own"
        )
    return [_entry(path) for path in paths]


def _entry(path: Path) -> Entry:
    config = resolve(Config, read_yaml(path), source=path)
    return Entry(
        path,
        _title(path.read_text(encoding="utf-8")),
        " + ".join(_said(name, section.kind) for name, section in config.condition.modalities.items()) or "none",
        config.generator.kind,
        config.stages[-1].resolution,
        config.total_images,
    )


def _said(name: str, kind: str) -> str:
    return f"{name} ({kind})" if kind == "stored" else name


def _title(text: str) -> str:
    header = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        header.append(line.removeprefix("#").strip())
    whole = " ".join(header)
    sentence = re.match(r".*?[.:](?=\s|$)", whole)
    return sentence.group().rstrip(".:") + "." if sentence else f"{whole}."
