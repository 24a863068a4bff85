"""Verdicts on places; and real ranks that stand still, each in its own way."""

import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from t2f_dist.storage.folder import Patience
from t2f_dist.training.launch import guard
from t2f_dist.training.launch.bound import EXCHANGES_WAIT, FETCHING, OF_STORAGE, START_SECONDS, bound_of, longest
from t2f_dist.training.launch.place import LEFT, WAITS, WAITS_FOR_GPU, WORKS, Place, _text_of_call, standing
from t2f_dist.training.launch.verdict import MOVING, cut_off, judge
from t2f_dist.training.launch.watchdog import PATIENCE
from t2f_dist.training.run import status
from t2f_dist.training.run.status import EXIT_HUNG
from tests.children import ROOT
from tests.end_to_end.launches import ranks_of

BOUND = 3.0  # seconds, of the launches here
SLACK = 4.0  # seconds that a busy machine may add


def place(rank: int, state: str = WAITS, host: str = "hostA", **changes) -> Place:
    return replace(
        Place(rank, host, 100 + rank, 7, "agreeing", 1280, 60.0, 60.0, state, "ranks.py:5 in stop"), **changes
    )


def verdict(*places: Place, silent: dict[int, float] | None = None, patient: bool = True, state: str = "") -> str:
    line = judge(places, silent or {}, 60.0, patient, lambda _: state)
    assert line is not None
    return line


def test_a_rank_that_waits_for_nobody_hangs_by_itself():
    stuck = place(1, WORKS, phase="waiting for data", images_seen=1234, where="dataset.py:123 in __getitem__")
    assert verdict(place(0), stuck, place(2)) == (
        'rank 1 hangs in "waiting for data" at 1,234 images since 60 s: dataset.py:123 in __getitem__'
        " (pid 101 on hostA)"
    )


def test_of_many_that_hang_a_few_are_named_those_behind_first():
    places = [place(rank, WORKS, images_seen=2000 - rank) for rank in range(200)]
    line = verdict(*places)
    assert re.findall(r"rank (\d+) hangs", line) == ["199", "198", "197"]
    assert line.endswith("and 197 more ranks")


@pytest.mark.parametrize(
    ("state", "why"), [("T", "it is stopped;"), ("S", "keeps its interpreter"), ("", "host or network is gone")]
)
def test_a_rank_that_writes_no_more_is_named_before_all_others(state, why):
    line = verdict(place(0), place(1, WORKS), place(2, host="hostB"), silent={0: 3.0, 2: 40.0}, state=state)
    assert line.startswith("rank 2 (pid 102 on hostB) has not answered for 40 s")
    assert why in line
    assert line.endswith('it was last seen in "agreeing" at 1,280 images')


def test_where_all_wait_for_each_other_the_network_between_the_hosts_is_cut():
    line = verdict(place(0), place(1, host="hostB"))
    assert line.startswith("all ranks wait for each other")
    assert line.endswith("the network between hostA and hostB is cut".replace(" and ", ", "))
    assert "different exchanges" not in line
    assert "different exchanges" in verdict(place(0), place(1, images_seen=1344))
    assert "what they send on hostA does not arrive" in verdict(place(0), place(1))


def test_while_a_rank_moves_the_others_wait_for_it_but_not_for_ever():
    drawing = place(0, WORKS, phase="drawing the grid", seconds=30.0)
    assert judge([drawing, place(1)], {}, 60.0, True, lambda _: "") is None
    assert verdict(drawing, place(1), patient=False).startswith("rank 0 hangs")


def test_a_rank_that_waits_for_storage_is_waited_for_as_long_by_all():
    fetching = place(1, WORKS, phase=FETCHING, bound=900.0, seconds=600.0)
    assert judge([place(0), fetching], {}, 60.0, True, lambda _: "") is None
    assert verdict(place(0), replace(fetching, seconds=700.0)).startswith("rank 1 hangs")
    assert verdict(place(0), fetching, silent={1: 40.0}).startswith("rank 1 (pid 101 on hostA) has not answered")


def test_storage_gives_up_before_the_watchdog_does():
    patience = Patience()
    silent = patience.tries * patience.seconds(0) + patience.wait_seconds * 2 ** (patience.tries - 1)
    slow = patience.seconds(32 << 20)
    for phase in OF_STORAGE:
        assert max(silent, slow) < MOVING * bound_of(300, phase, begun=True)
        assert bound_of(1800, phase, begun=True) == longest(1800) == 1800
    assert bound_of(300, "training step", begun=True) == bound_of(300, "waiting for data", begun=True) == 300
    assert bound_of(300, "training step", begun=False) == longest(300) == START_SECONDS
    assert PATIENCE < EXCHANGES_WAIT, "the watchdog knows more to say than an exchange that gives up"


def test_a_rank_that_left_is_missed():
    line = verdict(place(0), place(1, LEFT, seconds=0.0, images_seen=1344), silent={1: 100.0})
    assert line.startswith("rank 1 left at 1,344 images, and rank 0 ")


def test_a_gpu_that_does_not_answer_is_named_unless_all_wait_for_theirs():
    assert verdict(place(0), place(1, WAITS_FOR_GPU)).startswith("rank 1 hangs")
    assert verdict(place(0, WAITS_FOR_GPU), place(1, WAITS_FOR_GPU)).startswith("all ranks wait")


def test_without_the_store_a_rank_speaks_for_itself():
    assert cut_off(place(1, WORKS), "no answer for 40 s").startswith("rank 1 hangs")
    assert "hostA is cut off from the host of the store" in cut_off(place(1), "no answer for 40 s")


def test_a_place_survives_the_way_through_the_store():
    there = place(3, where='a "name" < ümlaut')
    assert Place.unpacked(there.packed().encode()) == there


def test_the_stack_tells_work_from_waiting():
    entered, done = threading.Event(), threading.Event()

    def lost_in_thought():
        entered.set()
        done.wait()

    thread = threading.Thread(target=lost_in_thought)
    thread.start()
    entered.wait()
    try:
        state, where = standing(sys._current_frames()[thread.ident or 0], on_gpu=False, several=True)
    finally:
        done.set()
        thread.join()
    assert state == WORKS
    assert re.search(r"test_watchdog\.py:\d+ in lost_in_thought", where)


def test_a_call_that_waits_for_the_gpu_is_known_by_its_text():
    class Scalar:
        def item(self) -> str:
            return _text_of_call(sys._getframe(1))

    scalar = Scalar()
    assert scalar.item() == "scalar.item()"


HOLDS_ITS_INTERPRETER = """
import ctypes, faulthandler, os, signal, subprocess, sys, tempfile
stacks = tempfile.TemporaryFile()
faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True, chain=False)
line = [sys.executable, "-I", "-S", sys.argv[1], "3", sys.argv[2], str(stacks.fileno())]
guard = subprocess.Popen(line, stdin=subprocess.PIPE, bufsize=0, pass_fds=(stacks.fileno(),))
guard.stdin.write(b'1.0 in "training step" at 640 images\\n')
def keep():
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
keep()
"""


def test_a_rank_whose_interpreter_is_kept_is_killed_by_its_guard_which_has_its_stack(tmp_path):
    status.write(tmp_path, "running", "training")
    line = [sys.executable, "-c", HOLDS_ITS_INTERPRETER, str(guard.__file__), str(tmp_path)]
    ended = subprocess.run(line, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    known = status.read(tmp_path)
    assert (known["outcome"], known["retry"]) == ("failed", True)
    assert known["reason"].startswith('rank 3 hangs in "training step" at 640 images: a thread of it keeps')
    assert "in keep" in known["reason"]
    assert f"error: {known['reason']}; it is killed" in ended.stderr
    assert (tmp_path / "hang-3.txt").read_text().startswith(known["reason"])


@contextmanager
def standing_still(kind: str, run: Path, *options: str, bound: float = BOUND) -> Iterator[subprocess.Popen[str]]:
    """Ranks of tests.training.standing, in a process group of their own that is gone with the block."""
    run.mkdir()
    line = [sys.executable, "-m", "tests.training.standing", kind, str(bound), str(run), *options]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def end_of(process: subprocess.Popen[str]) -> tuple[dict[int, tuple[int, float]], str]:
    """Exit code and seconds by rank; and what was said."""
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return {int(rank): tuple(end) for rank, end in json.loads(said).items()}, errors


STUCK = r'rank 1 hangs in "waiting for data" at 320 images since \d s: standing\.py:\d+ in asleep < '
KEPT = r"rank 1 \(pid \d+ on .*\) has not answered for \d s and more: it is alive"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "line", "code"),
    [
        ("asleep", STUCK, EXIT_HUNG),
        ("exchange", r"all ranks wait for each other, .*in different exchanges", EXIT_HUNG),
        ("stopped", r"rank 1 \(pid \d+ on .*\) has not answered for \d s and more: it is stopped", -signal.SIGKILL),
        ("interpreter", KEPT, -signal.SIGKILL),
        ("matching", KEPT, -signal.SIGKILL),
    ],
)
def test_a_run_that_stands_still_ends_in_time_with_one_verdict(tmp_path, kind, line, code):
    run = tmp_path / "run"
    with standing_still(kind, run) as process:
        ends, errors = end_of(process)
    assert ends[0][0] == EXIT_HUNG
    assert ends[1][0] == code
    assert ends[0][1] < 1.5 * BOUND + SLACK
    assert ends[1][1] < 1.5 * BOUND + SLACK + guard.STACK_SECONDS
    known = status.read(run)
    assert (known["outcome"], known["retry"]) == ("failed", True)
    assert re.match(line, known["reason"])
    verdicts = {rank: (run / f"hang-{rank}.txt").read_text().split("\n")[0] for rank in (0, 1) if ends[rank][0] == 4}
    assert set(verdicts.values()) == {known["reason"]}
    assert errors.count(f"error: {known['reason']}") == 1
    if kind in ("interpreter", "matching"):
        assert f"in {HURT_FUNCTIONS[kind]}" in (run / "hang-1.txt").read_text()


HURT_FUNCTIONS = {"interpreter": "keeping_the_interpreter", "matching": "matching"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["store", "cut"])
def test_without_a_store_each_speaks_for_itself_and_ends(tmp_path, kind):
    run = tmp_path / "run"
    with standing_still(kind, run) as process:
        ends, errors = end_of(process)
    assert ends[1][0] == EXIT_HUNG
    assert ends[0][0] in (EXIT_HUNG, 1)  # 1: the other one was first, and its end broke the exchange
    assert max(seconds for _, seconds in ends.values()) < 1.5 * BOUND + SLACK
    assert re.search(f"error: {STUCK}", errors)


@pytest.mark.slow
def test_of_eight_ranks_all_say_the_same(tmp_path):
    run = tmp_path / "run"
    with standing_still("asleep", run, "8", bound=2 * BOUND) as process:
        ends, _ = end_of(process)
    assert {code for code, _ in ends.values()} == {EXIT_HUNG}
    assert {(run / f"hang-{rank}.txt").read_text().split("\n")[0] for rank in range(8)} == {status.read(run)["reason"]}
    assert status.read(run)["reason"].startswith("rank 7 hangs")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slow", "quiet"])
def test_what_moves_however_slowly_is_left_in_peace(tmp_path, kind):
    run = tmp_path / "run"
    with standing_still(kind, run) as process:
        ends, errors = end_of(process)
    assert [code for code, _ in ends.values()] == [0, 0], errors
    assert list(run.glob("hang-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["the group", "the ranks"])
def test_a_job_that_is_stopped_for_long_and_continued_goes_on(tmp_path, whom):
    run = tmp_path / "run"
    with standing_still("paused", run) as process:
        deadline = time.monotonic() + 60
        while not (run / "hurt-0").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        send = os.killpg if whom == "the group" else os.kill
        targets = [process.pid] if whom == "the group" else ranks_of(process)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for target in targets:
                send(target, number)
            time.sleep(3 * BOUND if number == signal.SIGSTOP else 0)
        ends, errors = end_of(process)
    assert [code for code, _ in ends.values()] == [0, 0], errors
    assert list(run.glob("hang-*")) == []


def test_faulthandler_is_as_it_was():
    """The signal for stacks is given back when a watchdog closes: it would else write into a closed file."""
    assert not faulthandler.unregister(signal.SIGUSR2)
