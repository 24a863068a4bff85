"""A clock that jumps while a run trains: that of its processes alone, by libfaketime."""

import itertools
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import assert_same_end, launch, log_of, metrics_of, status_of, steps_of, wait_for
from tests.faults.record import record

pytestmark = pytest.mark.slow

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
# libfaketime 0.9.10 forgets to fill in until when to sleep, where the monotonic clock is not to be faked.
SLEEP = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    return syscall(SYS_clock_nanosleep, clock, flags, until, left) == 0 ? 0 : errno;
}
"""
Anew = Callable[[str], tuple[Config, Config]]


@pytest.fixture
def clock(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """An environment whose processes read the clock with the offset that a file holds."""
    (tmp_path / "sleep.c").write_text(SLEEP)
    sleep, offset = tmp_path / "sleep.so", tmp_path / "offset"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(sleep), str(tmp_path / "sleep.c")], check=True)
    offset.write_text("+0\n")
    fake = {
        "LD_PRELOAD": f"{sleep} {LIBRARIES[0]}",
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # as with a real clock that is set: what measures time goes on
        "NO_FAKE_STAT": "1",
    }
    return {**os.environ, **fake}, offset


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler here")
@pytest.mark.skipif(not LIBRARIES, reason="no libfaketime here (Debian's package faketime)")
@pytest.mark.parametrize(
    ("jump", "seconds", "name"), [("+1h", 3600, "an hour ahead"), ("-1y", -365 * 86400, "a year back")]
)
def test_a_clock_that_jumps_changes_nothing_but_dates(anew: Anew, clock, jump: str, seconds: int, name: str):
    config, quiet = anew("house")
    environment, offset = clock
    with launch(config, module="tests.faults.injected", environment=environment) as process:
        wait_for(lambda: len(steps_of(config)) >= 10, process, "a step")
        offset.write_text(f"{jump}\n")
        assert process.wait(600) == 0, log_of(config)
    times = [when for when, _ in steps_of(config)]
    jumps = [after - before for before, after in itertools.pairwise(times) if abs(after - before) > 1800]
    assert jumps == [pytest.approx(seconds, abs=300)], "in the middle of the run"
    assert times[-1] - time.time() == pytest.approx(seconds, abs=300)
    assert status_of(config)["outcome"] == "finished"
    assert_same_end(config, quiet)
    kept = [sorted(path.name for path in (Path(each.run) / "checkpoints").glob("images-*")) for each in (config, quiet)]
    assert kept[0] == kept[1]
    for line in metrics_of(config):
        assert 0 < line["speed/images_per_second"] < 1e5
        assert all(math.isfinite(value) and value >= 0 for key, value in line.items() if key.startswith("ranks/"))
    assert "eta 0:" in log_of(config) and "eta -" not in log_of(config)
    record(f"clock {name}", "bit-identical", 0)
