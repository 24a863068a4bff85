"""What came of a training run that has just ended, for schedulers: launchers turn each failing exit code into 1.

    python launch/outcome.py --since MARK --config C [--set a.b=v ...] [--run DIR]

Takes the options of t2f_dist.train and reads status.json in the folder of that run. Prints one line. Exit codes:

0   finished
74  killed, or failed by what may pass: the same command is worth starting again, a bounded number of times
75  pre-empted, and saved: the same command goes on
76  as 74, but the run saved more images in this launch than before; never with --job, which counts by itself
78  failed: something must be mended first

--check       before a launch: reads the configuration. Exit code 78 and a line where it is wrong, else 0 and three
              words: a mark of how the run stands; the seconds after which a launch that hangs has ended by itself;
              finished or open.
--since MARK  what --check printed before the launch: what was written before says nothing about it.
--job NAME    counts the failures of this job in RUN/failures.json, from the last progress on, which is a checkpoint of
              more images; being pre-empted is none.
--failures N  so many failures of the job in a row are worth another start (5).

T2F_LAUNCH in the environment, also of the training, names the scheduler's job: what another one writes is not taken for
its own, and a run in the hands of another is refused (78).
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import struct
import sys
from contextlib import suppress
from pathlib import Path

try:
    from t2f_dist.config.load import read_yaml, resolve
    from t2f_dist.config.schema import Config
    from t2f_dist.training.checkpoints.last_save import LastSave
    from t2f_dist.training.launch.bound import EXCHANGES_WAIT, longest
    from t2f_dist.training.run import status
except ImportError as error:
    print(f"failed: {sys.executable} has not what this needs ({error}): take .venv/bin/python, of make install")
    sys.exit(78)

# 74, 75 and 78 are EX_IOERR, EX_TEMPFAIL and EX_CONFIG of sysexits.h.
FINISHED = 0
KILLED = 74
PREEMPTED = 75
FURTHER = 76
MEND = 78


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--run")
    parser.add_argument("--dry-run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--since", default="")
    parser.add_argument("--job")
    parser.add_argument("--failures", type=int, default=5)
    options = parser.parse_args()
    try:
        overrides = options.overrides + ([f"run={options.run}"] if options.run else [])
        config = resolve(Config, read_yaml(options.config), overrides, source=options.config)
        run = Path(config.run)
        if options.dry_run:
            raise ValueError("--dry-run is no training: python -m t2f_dist.train --config ... --dry-run where you are")
        if options.check:
            code, line = 0, " ".join(check(config))
        else:
            code, line = judge(run, config.total_images, options.since)
            if code == KILLED and options.job:
                failures = count(run, options.job)
                line += f"; failure {failures} without progress"
                if failures > options.failures:
                    code, line = MEND, f"{line}, and no more than {options.failures} are tried again"
            elif code == KILLED and options.since and images_saved(run) > images_in(options.since):
                code = FURTHER
    except (ValueError, OSError) as error:
        code, line = MEND, f"failed: {error}"
    print(line, flush=True)
    return code


def check(config: Config) -> tuple[str, str, str]:
    """A mark, the seconds after which a launch that hangs has ended, and whether there is anything left to train."""
    run = Path(config.run)
    # The watchdog ends a rank before, but for one whose exchanges alone give up; then ranks are killed.
    seconds = round(EXCHANGES_WAIT * longest(config.train.timeout_seconds)) + 60
    return mark(run), str(seconds), "finished" if is_complete(status.read(run), config.total_images) else "open"


def mark(run: Path) -> str:
    """Of how the run stands: the images that are saved, and a hash, for clocks of several hosts cannot be compared."""
    try:
        content = (run / "status.json").read_bytes()
    except OSError:
        content = b""
    return f"{images_saved(run)}-{hashlib.sha256(content).hexdigest()[:16]}"


def images_in(mark: str) -> int:
    """Those of a mark. Raises ValueError where it is none."""
    return int(mark.partition("-")[0])


def images_seen(known: dict[str, object]) -> int:
    number = known.get("images_seen")
    return number if isinstance(number, int) else 0


def images_saved(run: Path) -> int:
    """At the newest checkpoint that was written: what was trained after it is trained again, and is no progress."""
    saved = LastSave.read(run)
    return saved.images if saved else 0


def is_complete(known: dict[str, object], total_images: int) -> bool:
    """Whether the run is finished, also by this configuration: its last stage may be longer by now."""
    return known.get("outcome") == "finished" and "refused" not in known and images_seen(known) >= total_images


def judge(run: Path, total_images: int, since: str = "") -> tuple[int, str]:
    """The exit code, and how the run stands in a line that begins with its outcome.

    since: a mark of before the launch.
    """
    known = status.read(run)
    if not known and not os.path.lexists(run / "status.json"):  # the configuration was checked before
        if run.exists() and not run.is_dir():
            return MEND, f"failed: {run} is no folder: name another with --run"
        return KILLED, f"killed: nothing was written into {run}: the output of the launch says why, if there was one"
    if not known:
        return KILLED, f"killed: {run}/status.json cannot be read"
    outcome, reason = known.get("outcome"), known.get("reason")
    if is_complete(known, total_images):
        return FINISHED, f"finished: {reason}"
    if (job := os.environ.get("T2F_LAUNCH")) and known.get("launch") != job:
        if outcome == "running" and is_held(run):
            return MEND, f"refused: {run} is in use by {known.get('launch', 'another launch')}"
        return KILLED, f"killed: nothing was written into {run} by {job}"
    if since and mark(run) == since:
        return KILLED, f"killed: nothing was written into {run} by this launch"
    if "refused" in known:
        return MEND, f"refused: {known['refused']}"
    if outcome == "finished":
        return FINISHED, f"finished: {reason}"
    if outcome == "preempted":
        return PREEMPTED, f"preempted: {reason}"
    if outcome == "running":
        return KILLED, f"killed: while {reason}"
    return KILLED if known.get("retry") is True else MEND, f"failed: {reason}"


def is_held(run: Path) -> bool:
    """Whether a living run holds the folder. Only asks: taking the lock, if but for a moment, could refuse a launch."""
    wanted = struct.pack("hhlli", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock of fcntl(2)
    try:
        with open(run / ".lock", "rb") as file:
            found = fcntl.fcntl(file, fcntl.F_GETLK, wanted)
    except OSError:
        return False
    return struct.unpack("hhlli", found)[0] != fcntl.F_UNLCK


def count(run: Path, job: str) -> int:
    """Write down one more failure of the job; how many there are since the run last saved more images than ever.

    Raises OSError where there is no folder of the run, and none can be made.
    """
    path = run / "failures.json"
    images, failures = images_saved(run), 1
    with suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads(path.read_text())
        if before["job"] == job:
            failures = before["failures"] + 1 if images <= before["images_saved"] else 1
            images = max(images, before["images_saved"])
    run.mkdir(parents=True, exist_ok=True)  # of a launch that died before it could
    with suppress(OSError):  # a full disk, maybe the failure itself, must not make it one that is to be mended
        path.write_text(json.dumps({"job": job, "images_saved": images, "failures": failures}) + "\n")
    return failures


if __name__ == "__main__":
    sys.exit(main())
