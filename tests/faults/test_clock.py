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
from t2f_dist.training.growth import Phase
from t2f_dist.training.launch.ranks import Agreement, Ranks
from t2f_dist.training.loop import train
from tests.end_to_end.launches import (
    assert_same_end,
    assert_same_weights,
    launch,
    log_of,
    metrics_of,
    status_of,
    steps_of,
    wait_for,
)
from tests.faults.record import record
from tests.ranks import Pair

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


def _while_the_clock_jumps(rank: int, world_size: int, settings: Config) -> bool:
    """Two days ahead at 40 images, which were saved there, and a year back at 80."""
    stop, clock = Agreement.stop, time.time
    ahead = 0.0

    def told(agreement: Agreement, images_seen: int, phase: Phase) -> str | None:
        nonlocal ahead
        ahead = {40: 2 * 86400.0, 80: -365 * 86400.0}.get(images_seen, ahead)
        return stop(agreement, images_seen, phase)

    Agreement.stop, time.time = told, lambda: clock() + ahead
    try:
        return train(settings, Ranks(60))
    finally:
        Agreement.stop, time.time = stop, clock


def test_a_clock_that_jumps_in_this_process_prunes_and_measures_nothing_else(pair: Pair, little):
    settings, quiet = little
    assert pair.run(_while_the_clock_jumps, settings) == [True, True]
    assert_same_weights(settings, quiet)
    assert _kept(settings) == _kept(quiet)
    assert [line["images"] for line in metrics_of(settings)] == [line["images"] for line in metrics_of(quiet)]
    assert all(0 < line["speed/images_per_second"] < 1e5 for line in metrics_of(settings))


def _kept(config: Config) -> list[str]:
    return sorted(path.name for path in (Path(config.run) / "checkpoints").glob("images-*"))


@pytest.mark.slow
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
    assert _kept(config) == _kept(quiet)
    for line in metrics_of(config):
        assert 0 < line["speed/images_per_second"] < 1e5
        assert all(math.isfinite(value) and value >= 0 for key, value in line.items() if key.startswith("ranks/"))
    assert "eta 0:" in log_of(config) and "eta -" not in log_of(config)
    record(f"clock {name}", "bit-identical", 0)
