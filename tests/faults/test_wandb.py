"""wandb unreachable, silent, failing or refusing, at the start and in the middle: it costs the upload, and no time."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from t2f_dist.training.run import tracker
from t2f_dist.training.run.log import Log
from tests.end_to_end.launches import INJECTED, finish, launch, log_of, metrics_of, status_of, steps_of, wait_for
from tests.faults.record import record
from tests.training.small import config
from tests.training.test_log import STABLE, report
from tests.training.test_log import settings as log_settings
from tests.wandb_server import Manner, WandbServer, nowhere, served

CLOSING = tracker.CLOSE_SECONDS + 15  # and what else a launch does after its last step, on a busy machine


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with served() as server:
        yield server


def settings(shards: Path, run: Path, *overrides: str) -> Config:
    return config("house", shards, run, "wandb.mode=auto", "log.every_images=16", *overrides)


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "WANDB_MODE"} | more


def of_wandb() -> set[int]:
    """Processes of wandb and of ours that feed it."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:  # it has ended
            continue
        if b"wandb-core" in line or b"t2f_dist.training.run.uploader" in line:
            found.add(int(path.parent.name))
    return found


def assert_gone(before: set[int], seconds: float = 20) -> None:
    """No process of a run is left, but for those that others have."""
    deadline = time.monotonic() + seconds
    started = {pid for pid in of_wandb() - before if _parent(pid) in (0, 1)}
    while started & of_wandb():
        assert time.monotonic() < deadline, f"{started & of_wandb()} are left"
        time.sleep(0.1)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def steps_and_seconds(run: Config, ended: float) -> tuple[float, float, float]:
    """(seconds from the first step to the last, the longest between two, from the last step to the end)."""
    times = [when for when, _ in steps_of(run)]
    return times[-1] - times[0], max(b - a for a, b in itertools.pairwise(times)), ended - times[-1]


def test_a_server_that_hangs_costs_two_ranks_nothing(portrait_shards: Path, server: WandbServer, tmp_path: Path):
    server.manner = "hangs"
    before = of_wandb()
    run = settings(portrait_shards, tmp_path / "run")
    assert finish(run, environment=environment(**server.environment, WANDB_INIT_TIMEOUT="2"), module=INJECTED) == 0
    ended = time.time()
    assert status_of(run)["outcome"] == "finished"
    assert metrics_of(run)[-1]["images"] == 128
    said = log_of(run)
    assert "so this run is logged offline" in said
    assert f"to upload: wandb sync {run.run}/wandb/offline-run-*-{status_of(run)['wandb_id']}*" in said
    assert list((Path(run.run) / "wandb").glob("offline-run-*"))
    _, longest, closing = steps_and_seconds(run, ended)
    assert longest < 5 and closing < CLOSING
    assert_gone(before)
    record("wandb hangs at the start", "goes on, kept offline", 0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["quiet", "nowhere", "hangs", "fails", "denies"])
def test_the_steps_take_as_long_as_without(portrait_shards: Path, server: WandbServer, tmp_path: Path, kind: str):
    where = nowhere() if kind == "nowhere" else server.environment
    manners: dict[str, Manner] = {"hangs": "hangs", "fails": "fails", "denies": "denies"}
    server.manner = manners.get(kind, "answers")
    before = of_wandb()
    quiet, loud = (
        settings(portrait_shards, tmp_path / name, "stages.1.stable_images=1024") for name in ("quiet", "loud")
    )
    took = []
    for run, mode in ((quiet, "disabled"), (loud, None)):
        more = {"WANDB_MODE": mode} if mode else where
        assert finish(run, environment=environment(**more), module=INJECTED) == 0
        took.append(steps_and_seconds(run, time.time()))
    (without, _, _), (seconds, longest, closing) = took
    print(f"{kind}: {seconds:.2f} s for the steps, without wandb {without:.2f} s; the end took {closing:.1f} s")
    assert seconds < 1.5 * without + 5
    assert longest < 5 and closing < CLOSING
    assert [line["images"] for line in metrics_of(loud)] == [line["images"] for line in metrics_of(quiet)]
    if kind == "quiet":
        figures = [row for row in server.rows if "schedule/alpha" in row]
        assert [row["images"] for row in figures] == [line["images"] for line in metrics_of(loud)]
        assert server.states[-1] == {"complete": True, "exitcode": 0}
        assert "wandb sync" not in log_of(loud)
    else:
        assert "so this run is logged offline" in log_of(loud)
        assert "to upload: wandb sync" in log_of(loud)
    assert_gone(before)
    record(f"wandb: {kind}", "goes on" if kind == "quiet" else "goes on, kept offline", 0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["hangs", "fails", "gone"])
def test_a_server_that_fails_in_the_middle_costs_the_upload(
    portrait_shards: Path, server: WandbServer, tmp_path: Path, manner: str
):
    before = of_wandb()
    # A minute of steps, so that there is a middle.
    slow = {
        "kind": "sleep",
        "at": "t2f_dist.training.side:Side.step",
        "rank": 0,
        "call": None,
        "once": False,
        "seconds": 0.2,
    }
    run = settings(portrait_shards, tmp_path / "run", "stages.1.stable_images=1024")
    with launch(run, fault=slow, environment=environment(**server.environment)) as process:
        wait_for(lambda: "UpsertBucket" in server.queries, process, "a run in wandb")
        if manner == "gone":
            server.close()
        else:
            server.manner = "hangs" if manner == "hangs" else "fails"
        struck = time.time()
        assert process.wait(240) == 0
    ended = time.time()
    assert status_of(run)["outcome"] == "finished"
    _, longest, closing = steps_and_seconds(run, ended)
    print(f"{manner}: the longest step took {longest:.2f} s, the end {closing:.1f} s")
    assert steps_of(run)[-1][0] > struck, "it was the middle"
    assert longest < 5 and closing < CLOSING
    said = log_of(run)
    assert "wandb: the upload" in said
    assert f"wandb sync {run.run}/wandb/run-*-{status_of(run)['wandb_id']}*" in said
    assert list((Path(run.run) / "wandb").glob("run-*/run-*.wandb"))
    assert_gone(before)
    record(f"wandb in the middle: {manner}", "goes on, to be uploaded later", 0, 0.0)


@pytest.mark.slow
def test_online_and_refused_ends_at_the_start(portrait_shards: Path, server: WandbServer, tmp_path: Path):
    server.manner = "denies"
    before = of_wandb()
    run = settings(portrait_shards, tmp_path / "run", "wandb.mode=online")
    assert finish(run, environment=environment(**server.environment)) == 1
    said = log_of(run)
    if "so this run is logged offline" in said:
        pytest.skip("this machine is so busy that the refusal came later than it is waited for")
    assert "error: wandb online: " in said and "--set wandb.mode=offline logs without it" in said
    assert status_of(run)["outcome"] == "failed"
    assert_gone(before)


@pytest.mark.slow
def test_wandb_is_told_of_alerts_and_that_a_run_is_preempted(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("WANDB_MODE")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    log = Log(tmp_path, log_settings(tmp_path, "online"), 0)
    log.write(40, STABLE, report(1), {})
    log.alert("mode collapse", "faces are alike", "WARN")
    deadline = time.monotonic() + 60
    while not server.rows or "NotifyScriptableRunAlert" not in server.queries:  # a preempted end waits little
        assert time.monotonic() < deadline
        time.sleep(0.1)
    log.preempting()
    started = time.perf_counter()
    log.close(exit_code=0)
    assert time.perf_counter() - started < tracker.CLOSE_PREEMPTED_SECONDS + 5
    assert {"preempting": True} in server.states
    assert any(b"mode collapse" in body for body in server.bodies)


def test_a_training_process_that_is_killed_leaves_nothing_of_wandb(tmp_path: Path):
    """Its service and ours see that it is gone: neither pipes nor signals tell them."""
    import subprocess
    import sys

    before = of_wandb()
    code = (
        "import time; from pathlib import Path; from t2f_dist.training.run.log import Log\n"
        "from tests.training.test_log import settings\n"
        f"path = Path({str(tmp_path)!r})\n"
        "log = Log(path, settings(path, 'offline'), 0)\n"
        "while not list(path.glob('wandb/offline-run-*/run-*.wandb')): time.sleep(0.05)\n"
        "print('begun', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "begun\n"
            ours = {pid for pid in of_wandb() - before if _parent(pid) == process.pid}
            assert len(ours) == 1
            theirs = {pid for pid in of_wandb() - before if _parent(pid) in ours}
            assert len(theirs) == 1
        finally:
            process.kill()
    deadline = time.monotonic() + 20
    while (ours | theirs) & of_wandb():
        assert time.monotonic() < deadline
        time.sleep(0.05)
