"""What came of a training run that has just ended, for schedulers: launchers turn each failing exit code into 1.

    python launch/outcome.py --since 2026-01-31T12:00:00Z --config C [--set a.b=v ...] [--run DIR]

Takes the options of t2f_dist.train and reads status.json in the folder of that run. Prints one line. Exit codes:

0   finished
74  killed, or failed by what may pass: the same command is worth starting again, a bounded number of times
75  pre-empted, and saved: the same command goes on
78  failed: something must be mended first

--check       only reads the configuration: exit code 0 or 78, a line where it is wrong.
--since       when the launch began, in UTC: what was written before says nothing about it.
--job NAME    counts the failures of this job in RUN/failures.json, from the last progress on; being pre-empted is none.
--failures N  so many failures of the job in a row are worth another start (5).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from t2f_dist.config.load import read_yaml, resolve
from t2f_dist.config.schema import Config
from t2f_dist.training.run import status

# The last three are EX_IOERR, EX_TEMPFAIL and EX_CONFIG of sysexits.h.
FINISHED = 0
KILLED = 74
PREEMPTED = 75
MEND = 78


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--run")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--since", default="")
    parser.add_argument("--job")
    parser.add_argument("--failures", type=int, default=5)
    options = parser.parse_args()
    try:
        overrides = options.overrides + ([f"run={options.run}"] if options.run else [])
        run = Path(resolve(Config, read_yaml(options.config), overrides, source=options.config).run)
        if options.check:
            return 0
        code, line = judge(run, options.since)
        if code == KILLED and options.job:
            failures = count(run, options.job)
            line += f"; failure {failures} without progress"
            if failures > options.failures:
                code, line = MEND, f"{line}, and no more than {options.failures} are tried again"
    except (ValueError, OSError) as error:
        code, line = MEND, f"failed: {error}"
    print(line, flush=True)
    return code


def judge(run: Path, since: str) -> tuple[int, str]:
    """The exit code, and how the run stands in a line that begins with its outcome."""
    known = status.read(run)
    outcome, reason = known.get("outcome"), known.get("reason")
    if known.get("refused", "") >= since and "refused" in known:
        return MEND, f"refused: {known['refused']}"
    if not known:
        return MEND, f"failed: nothing was written into {run}: see the first error above"
    if known.get("updated", "") < since:
        return KILLED, f"killed: nothing was written into {run} since {since}"
    if outcome == "finished":
        return FINISHED, f"finished: {reason}"
    if outcome == "preempted":
        return PREEMPTED, f"preempted: {reason}"
    if outcome == "running":
        return KILLED, f"killed: while {reason}"
    return KILLED if known.get("retry") is True else MEND, f"failed: {reason}"


def count(run: Path, job: str) -> int:
    """Write down one more failure of the job; how many there are since the run last got further."""
    path = run / "failures.json"
    images_seen = status.read(run).get("images_seen", 0)
    try:
        before = json.loads(path.read_text())
        same = before["job"] == job and before["images_seen"] >= images_seen
        failures = before["failures"] + 1 if same else 1
    except (OSError, ValueError, KeyError, TypeError):
        failures = 1
    path.write_text(json.dumps({"job": job, "images_seen": images_seen, "failures": failures}) + "\n")
    return failures


if __name__ == "__main__":
    sys.exit(main())
