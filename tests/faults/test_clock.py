"""A clock that jumps while a run trains: that of its processes alone, by libfaketime."""

import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import assert_same_end, launch, log_of, metrics_of, status_of, steps_of, wait_for
from tests.faults.conftest import MID_FADE
from tests.faults.record import record

pytestmark = pytest.mark.slow

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
Anew = Callable[[str], tuple[Config, Config]]


@pytest.mark.skipif(not LIBRARIES, reason="no libfaketime here (Debian's package faketime)")
@pytest.mark.parametrize(
    ("jump", "seconds", "name"), [("+1h", 3600, "an hour ahead"), ("-1y", -365 * 86400, "a year back")]
)
def test_a_clock_that_jumps_changes_nothing_but_dates(anew: Anew, tmp_path: Path, jump: str, seconds: int, name: str):
    config, quiet = anew("house")
    offset = tmp_path / "offset"
    offset.write_text("+0\n")
    fake = {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # as with a real clock that is set: what measures time goes on
        "NO_FAKE_STAT": "1",
    }
    with launch(config, module="tests.faults.injected", environment={**os.environ, **fake}) as process:
        wait_for(lambda: len(steps_of(config)) >= 10, process, "a step")
        offset.write_text(f"{jump}\n")
        assert process.wait(240) == 0, log_of(config)
    times = [when for when, _ in steps_of(config)]
    jumps = [after - before for before, after in itertools.pairwise(times) if abs(after - before) > 1800]
    assert len(jumps) == 1 and abs(jumps[0] - seconds) < 3 * 86400, "the jump came in the middle of the run"
    assert times[-1] - time.time() == pytest.approx(seconds, abs=3 * 86400)
    assert steps_of(config)[times.index(times[-1])][1] > MID_FADE
    assert status_of(config)["outcome"] == "finished"
    assert_same_end(config, quiet)
    kept = [sorted(path.name for path in (Path(each.run) / "checkpoints").glob("images-*")) for each in (config, quiet)]
    assert kept[0] == kept[1]
    for line in metrics_of(config):
        assert 0 < line["speed/images_per_second"] < 1e5
        assert all(math.isfinite(value) and value >= 0 for key, value in line.items() if key.startswith("ranks/"))
    assert "-" not in log_of(config).partition("eta")[2].split()[0]
    record(f"clock {name}", "bit-identical", 0)
