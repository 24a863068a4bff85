"""What came of each injected fault, for the table of figures."""

import json
import os


def record(kind: str, outcome: str, images_lost: int | None = None, seconds: float | None = None) -> None:
    """Append a line to the file that T2F_FAULTS_RECORD names; without it, nothing is written.

    images_lost: trained before the fault, and again after it. seconds: from the fault to the first step after it, or to
    the end where the run is meant to end.
    """
    path = os.environ.get("T2F_FAULTS_RECORD")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            line = {"kind": kind, "outcome": outcome, "images_lost": images_lost, "seconds": seconds}
            line["together"] = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))  # tests that ran at a time
            file.write(json.dumps(line) + "\n")
