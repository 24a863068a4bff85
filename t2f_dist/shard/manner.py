"""How a build is done: by how many, by whom, and what becomes of what is there."""

from __future__ import annotations

from dataclasses import dataclass

from t2f_dist.shard.engine import Engine


@dataclass(frozen=True)
class Manner:
    """How a build is done; the bytes do not depend on it.

    Attributes:
        workers: processes, or of a local Ray cluster the cores.
        overwrite: replace what is there.
        extend: add what is new in the corpus to finished shards.
        retries: how often a shard is tried again whose process was killed, or that met an error of the system.
        part: (i, n): make only the i-th of n shares of the shards, 0 <= i < n; whoever ends last writes the manifest.
    """

    workers: int = 1
    overwrite: bool = False
    extend: bool = False
    engine: Engine = "process"
    retries: int = 2
    part: tuple[int, int] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; at least 1")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}; at least 0")
        if self.overwrite and self.extend:
            raise ValueError("--overwrite and --extend exclude each other: the one replaces, the other keeps")
        if self.part is None:
            return
        number, parts = self.part
        if not 0 <= number < parts:
            raise ValueError(f"--part {number}/{parts}: expected I/N with 0 <= I < N, such as 0/8 to 7/8")
        if self.overwrite:
            raise ValueError(
                "--part with --overwrite: each part would remove what the others have made; remove the folder first,"
                " or choose another --out"
            )
