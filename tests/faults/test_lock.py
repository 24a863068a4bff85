"""A run's folder belongs to one launch, until its main rank is gone: not for longer, whatever that leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import (
    INJECTED,
    ROOT,
    assert_same_end,
    children_of,
    finish,
    launch,
    log_of,
    processes_of,
    ranks_of,
    status_of,
    steps_of,
    wait_for,
)
from tests.faults.record import record

pytestmark = pytest.mark.slow

Anew = Callable[[str], tuple[Config, Config]]


def test_a_second_run_is_refused_while_the_first_lives_and_a_killed_one_holds_nothing(anew: Anew):
    config, quiet = anew("house")
    yaml = Path(config.run).with_suffix(".yaml")
    with launch(config, module=INJECTED) as process:
        wait_for(lambda: len(steps_of(config)) >= 5, process, "a step")
        for rank in ranks_of(process):
            os.kill(rank, signal.SIGSTOP)  # so that it does not end before the second has begun
        second = subprocess.run(
            [sys.executable, "-m", "t2f_dist.train", "--config", str(yaml)],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        (line,) = [line for line in second.stderr.splitlines() if line.startswith("error:")]
        assert second.returncode == 1 and f"{config.run} is in use by another run: wait for it" in line
        assert status_of(config)["outcome"] in ("running", "finished") and "refused" not in status_of(config)
        record("second run in the same folder", "refused with a line")

        main = ranks_of(process)[0]
        loaders = [pid for pid in children_of(main) if os.fsencode(str(yaml)) in _line(pid)]
        assert loaders
        for pid in loaders:
            os.kill(pid, signal.SIGSTOP)  # else they would end when they miss their rank
        os.kill(ranks_of(process)[1], signal.SIGCONT)
        os.kill(main, signal.SIGKILL)
        assert process.wait(120) != 0
        assert set(loaders) <= set(processes_of(config)), "they live, and hold what they inherited"
        when = time.time()
        assert finish(config, module=INJECTED, alone=False) == 0, log_of(config)
        after = [moment for moment, _ in steps_of(config) if moment > when]
        record("owner killed, its loader processes alive", "not held, bit-identical", None, after[0] - when)
    assert_same_end(config, quiet)


def _line(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
