"""wandb unreachable, silent, failing or refusing, at the start and in the middle: it costs the upload, and no time."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from t2f_dist.training.run import tracker, uploader
from t2f_dist.training.run.log import Log
from tests.end_to_end.launches import INJECTED, finish, launch, log_of, metrics_of, status_of, steps_of, wait_for
from tests.faults.record import record
from tests.training.small import config
from tests.training.test_log import STABLE, history, records, report
from tests.training.test_log import settings as log_settings
from tests.wandb_server import Manner, WandbServer, nowhere, served

MARK = "T2F_TEST_RUN"  # names the run in the environment of all that it starts
STEP_SECONDS = 0.6 * uploader.INIT_SECONDS  # a step that waited as wandb is waited for would take longer
CLOSING = tracker.CLOSE_SECONDS + 15  # and what else a launch does after its last step, on a busy machine


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with served() as server:
        yield server


def settings(shards: Path, run: Path, *overrides: str) -> Config:
    return config("house", shards, run, "wandb.mode=auto", "log.every_images=16", *overrides)


def environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "WANDB_MODE"} | more


def marked(run: Config, **more: str) -> dict[str, str]:
    return environment(**{MARK: run.run}, **more)


def of_wandb(run: Path) -> set[int]:
    """Processes of wandb and of ours that feed it, for a run, whoever their parent is: by a mark in the environment."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            line = (folder / "cmdline").read_bytes()
            if b"wandb-core" in line or b"t2f_dist.training.run.uploader" in line:
                marked = f"{MARK}={run}".encode() in (folder / "environ").read_bytes().split(b"\0")
                if marked and _state(folder) != "Z":
                    found.add(int(folder.name))
    return found


def _state(folder: Path) -> str:
    return (folder / "stat").read_text().rpartition(")")[2].split()[0]


def assert_gone(run: Path, seconds: float = 20) -> None:
    """No process of wandb is left of a run that was started with its mark."""
    deadline = time.monotonic() + seconds
    while left := of_wandb(run):
        assert time.monotonic() < deadline, f"{left} are left"
        time.sleep(0.1)


def steps_and_seconds(run: Config, ended: float) -> tuple[float, float, float]:
    """(seconds from the first step to the last, the longest between two, from the last step to the end)."""
    times = [when for when, _ in steps_of(run)]
    return times[-1] - times[0], max(b - a for a, b in itertools.pairwise(times)), ended - times[-1]


def test_a_server_that_hangs_costs_two_ranks_nothing(portrait_shards: Path, server: WandbServer, tmp_path: Path):
    server.manner = "hangs"
    run = settings(portrait_shards, tmp_path / "run")
    assert finish(run, environment=marked(run, **server.environment, WANDB_INIT_TIMEOUT="6"), module=INJECTED) == 0
    ended = time.time()
    assert status_of(run)["outcome"] == "finished"
    assert metrics_of(run)[-1]["images"] == 128
    said = log_of(run)
    assert "so this run is logged offline" in said
    assert f"to upload: wandb sync {run.run}/wandb/offline-run-*-{status_of(run)['wandb_id']}*" in said
    assert list((Path(run.run) / "wandb").glob("offline-run-*"))
    _, longest, closing = steps_and_seconds(run, ended)
    assert longest < 5 and closing < CLOSING
    assert_gone(Path(run.run))
    record("wandb hangs at the start", "goes on, kept offline", 0, longest)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["quiet", "nowhere", "hangs", "fails", "denies"])
def test_the_steps_take_as_long_as_without(portrait_shards: Path, server: WandbServer, tmp_path: Path, kind: str):
    where = nowhere() if kind == "nowhere" else server.environment
    manners: dict[str, Manner] = {"hangs": "hangs", "fails": "fails", "denies": "denies"}
    server.manner = manners.get(kind, "answers")
    quiet, loud = (
        settings(portrait_shards, tmp_path / name, "stages.1.stable_images=1024") for name in ("quiet", "loud")
    )
    took = []
    for run, mode in ((quiet, "disabled"), (loud, None)):
        more = {"WANDB_MODE": mode} if mode else where
        assert finish(run, environment=marked(run, **more), module=INJECTED) == 0
        took.append(steps_and_seconds(run, time.time()))
    (without, usual, _), (seconds, longest, closing) = took
    print(f"{kind}: {seconds:.2f} s for the steps, without wandb {without:.2f} s; the end took {closing:.1f} s")
    assert seconds < without + uploader.INIT_SECONDS, "nothing was waited for"
    assert longest < usual + STEP_SECONDS and closing < CLOSING
    assert [line["images"] for line in metrics_of(loud)] == [line["images"] for line in metrics_of(quiet)]
    if kind == "quiet":
        figures = [row for row in server.rows if "schedule/alpha" in row]
        assert [row["images"] for row in figures] == [line["images"] for line in metrics_of(loud)]
        assert server.states[-1] == {"complete": True, "exitcode": 0}
        assert "wandb sync" not in log_of(loud)
    else:
        assert "so this run is logged offline" in log_of(loud)
        assert "to upload: wandb sync" in log_of(loud)
    assert_gone(Path(loud.run))
    record(f"wandb: {kind}", "goes on" if kind == "quiet" else "goes on, kept offline", 0, longest)


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["hangs", "fails", "gone"])
def test_a_server_that_fails_in_the_middle_costs_the_upload(
    portrait_shards: Path, server: WandbServer, tmp_path: Path, manner: str
):
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
    with launch(run, fault=slow, environment=marked(run, **server.environment)) as process:
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
    assert longest < STEP_SECONDS and closing < CLOSING
    said = log_of(run)
    assert "wandb: the upload" in said
    assert f"wandb sync {run.run}/wandb/run-*-{status_of(run)['wandb_id']}*" in said
    assert list((Path(run.run) / "wandb").glob("run-*/run-*.wandb"))
    assert_gone(Path(run.run))
    record(f"wandb in the middle: {manner}", "goes on, to be uploaded later", 0, longest)


@pytest.mark.slow
def test_online_and_refused_ends_at_the_start(portrait_shards: Path, server: WandbServer, tmp_path: Path):
    server.manner = "denies"
    run = settings(portrait_shards, tmp_path / "run", "wandb.mode=online")
    patient = {"kind": "set", "at": "t2f_dist.training.run.tracker:REFUSAL_SECONDS", "seconds": 60, "once": False}
    assert finish(run, environment=marked(run, **server.environment), fault=patient) == 1
    said = log_of(run)
    assert "error: wandb online: " in said and "--set wandb.mode=offline logs without it" in said
    assert status_of(run)["outcome"] == "failed"
    assert_gone(Path(run.run))


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


@pytest.mark.slow
def test_a_training_process_that_is_killed_leaves_nothing_of_wandb(tmp_path: Path):
    """Its service and ours see that it is gone: neither pipes nor signals tell them."""
    code = (
        "import time; from pathlib import Path; from t2f_dist.training.run.log import Log\n"
        "from tests.training.test_log import settings\n"
        f"path = Path({str(tmp_path)!r})\n"
        "log = Log(path, settings(path, 'offline'), 0)\n"
        "while not list(path.glob('wandb/offline-run-*/run-*.wandb')): time.sleep(0.05)\n"
        "print('begun', flush=True); time.sleep(600)\n"
    )
    line = [sys.executable, "-c", code]
    mark = os.environ | {MARK: str(tmp_path)}
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=mark) as process:
        try:
            assert process.stdout and process.stdout.readline() == "begun\n"
            assert len(of_wandb(tmp_path)) == 2
        finally:
            process.kill()
    assert_gone(tmp_path)


def begun(run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Log, int, int]:
    """A log whose first figures wandb has, offline; the process that feeds it, and its service."""
    monkeypatch.setenv(MARK, str(run))
    log = Log(run, log_settings(run, "offline"), 0)
    assert log._tracker
    deadline = time.monotonic() + 60
    while log._tracker.mode != "offline":
        assert time.monotonic() < deadline, "wandb did not begin"
        assert log._tracker.news() == []
        time.sleep(0.02)
    ours = log._tracker._process.pid
    (theirs,) = of_wandb(run) - {ours}
    return log, ours, theirs


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_signals_to_every_process_of_a_job_cost_no_more_than_a_few_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
):
    """As a scheduler sends them; the last one as the kernel does for want of memory, to wandb's service alone."""
    log, ours, theirs = begun(tmp_path, monkeypatch)
    os.kill(theirs, number)
    if number != signal.SIGKILL:
        os.kill(ours, number)
        os.kill(ours, signal.SIGINT)
    if number != signal.SIGUSR1:
        while theirs in of_wandb(tmp_path):
            time.sleep(0.02)
    log.write(80, STABLE, report(1), {})
    log.write(120, STABLE, report(1), {})
    log.preempting()
    log.close(exit_code=0)
    assert_gone(tmp_path)
    newest = max(tmp_path.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_mtime_ns)
    found = records(newest)
    assert [each for each in found if each.HasField("preempting")]
    figures = [history(each)["images"] for each in found if each.HasField("history")]
    assert figures[-2:] == [80, 120]
    out = capsys.readouterr().out
    lost = number != signal.SIGUSR1
    assert out.count("its service has died and is begun again") == lost
    last = out.splitlines()[-1]
    assert last.startswith("wandb: what is kept offline is not complete" if lost else "wandb: kept offline; to upload")
    assert f"wandb sync {tmp_path}/wandb/offline-run-" in last
    assert (f"{tmp_path}/metrics.jsonl has all figures" in last) == lost


def test_the_end_waits_no_longer_than_it_says_where_all_of_wandb_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A pipe that is full and that a stopped process still holds: its lock would never be let go."""
    monkeypatch.setattr(tracker, "CLOSE_SECONDS", 0.5)
    log, ours, theirs = begun(tmp_path, monkeypatch)
    assert log._tracker
    try:
        os.kill(ours, signal.SIGSTOP)
        os.kill(theirs, signal.SIGSTOP)
        for _ in range(tracker.QUEUE_MAX):
            log._tracker.send("figures", figures={"x": "x" * 500})
        thread = threading.Thread(target=log.close, args=(0,), daemon=True)
        thread.start()
        thread.join(15)
        assert not thread.is_alive(), "the end waits for ever"
        assert "what is kept offline was given up after 0 s" in capsys.readouterr().out
    finally:
        with suppress(ProcessLookupError):
            os.kill(theirs, signal.SIGKILL)
    assert_gone(tmp_path)


def test_what_is_kept_for_wandb_names_nothing_of_the_machine_but_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    log, _, _ = begun(tmp_path, monkeypatch)
    log.write(80, STABLE, report(1), {})
    log.close(exit_code=0)
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert not list(folder.rglob("requirements*")) and not list(folder.rglob("wandb-metadata*"))
    found = records(folder)
    assert not [each for each in found if each.HasField("environment")], "paths, the command line, the operating system"
    content = b"".join(each.SerializeToString() for each in found if not each.HasField("run"))
    assert sys.executable.encode() not in content and str(Path.cwd()).encode() not in content
