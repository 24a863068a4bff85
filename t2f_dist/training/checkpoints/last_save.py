"""RUN/saved.json: the newest checkpoint that a run has written, and where: kept apart from the checkpoints themselves.

So a run whose checkpoints are not there (a disk that is not mounted, another folder named by mistake) is not taken for
a new one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from t2f_dist.storage.folder import write_file

NAME = "saved.json"


@dataclass(frozen=True)
class LastSave:
    """images: seen at the newest checkpoint. place: of the archive, as it is shown."""

    images: int
    place: str

    def write(self, run: Path) -> None:
        """Replace what the run's folder says. Raises OSError."""
        write_file(run / NAME, json.dumps(asdict(self)).encode() + b"\n")

    @classmethod
    def read(cls, run: Path) -> LastSave | None:
        """None where none was written yet, or nothing that can be read."""
        try:
            content = json.loads((run / NAME).read_bytes())
            return cls(int(content["images"]), str(content["place"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
