"""Ranks agree: on numbers, on where they stand, and on when to stop."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from t2f_dist.training.growth import Phase
from t2f_dist.training.launch import ranks as module
from t2f_dist.training.launch.place import WAITS, WORKS, standing
from t2f_dist.training.launch.ranks import LAUNCHER_KILLED, Agreement, Ranks
from tests.ranks import Pair

ROOT = Path(__file__).resolve().parents[2]


def test_gpus_that_torch_cannot_use_are_no_reason_to_train_on_the_cpu(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    Ranks(30)  # a container sees the driver, and has no GPU
    (tmp_path / "nvidia0").touch()
    with pytest.raises(ValueError, match=r"torch .* cannot use the GPUs of this machine: .*driver .*CUDA \d+\.\d"):
        Ranks(30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # as launch/cpu.yaml does
    Ranks(30)


def _numbers(rank: int, world_size: int):
    ranks = Ranks(30)
    own = torch.tensor([1.0, 10.0], dtype=torch.float64) * (rank + 1)
    ranks.barrier()
    where = (ranks.rank, ranks.world_size, ranks.is_main, str(ranks.device), ranks.describe())
    return where, ranks.gather(own), ranks.mean(own.clone()), ranks.broadcast(2**40 + rank)


def test_numbers_are_exchanged_in_float64_and_whole(pair: Pair):
    for rank, (where, gathered, mean, sent) in enumerate(pair.run(_numbers)):
        assert where[:3] == (rank, 2, rank == 0)
        assert where[4].startswith("world size 2 (gloo)")
        assert torch.equal(gathered, torch.tensor([[1, 10], [2, 20]], dtype=torch.float64))
        assert torch.equal(mean, torch.tensor([1.5, 15], dtype=torch.float64))
        assert sent == 2**40


def _lonely(rank: int, world_size: int) -> str:
    os.environ["WORLD_SIZE"] = "4"
    try:
        Ranks(30)
    except ValueError as error:
        return str(error)
    finally:
        os.environ["WORLD_SIZE"] = str(world_size)
    return "nothing was refused"


def test_ranks_that_do_not_see_each_other_are_refused(pair: Pair):
    for rank, message in enumerate(pair.run(_lonely)):
        assert message.startswith(
            f"the launcher started 4 ranks, but rank {rank} sees 2: launch with `accelerate launch"
        )


def _compared(rank: int, world_size: int, texts: list[str]) -> str | None:
    try:
        Ranks(30).check_same(texts[rank], "the configurations")
    except ValueError as error:
        return str(error)
    return None


def test_ranks_with_other_files_are_named_on_every_rank(pair: Pair):
    assert pair.run(_compared, ["seed: 0", "seed: 0"]) == [None, None]
    for message in pair.run(_compared, ["seed: 0", "seed: 1"]):
        assert message is not None
        assert message.startswith("the configurations of ranks [1] differ from rank 0's")


def _signalled(rank: int, world_size: int, victims: dict[int, list[str]], at: int) -> tuple[int, str | None, bool]:
    """The step at which `stop` answered, and with what."""
    before = [signal.getsignal(number) for number in Agreement.SIGNALS]
    agreement = Agreement(Ranks(30))
    step, answer = 0, None
    while step < 20 and answer is None:
        if step == at:
            for name in victims.get(rank, []):
                os.kill(os.getpid(), signal.Signals[name])
        time.sleep(0.005 * rank)  # they do not run in step by chance
        answer = agreement.stop(8 * step, Phase(0, 0, 4, 1.0, 8, 1.0))
        step += 1
    agreement.close()
    return step, answer, before == [signal.getsignal(number) for number in Agreement.SIGNALS]


@pytest.mark.parametrize(
    ("victims", "name"),
    [
        ({0: ["SIGTERM"]}, "SIGTERM"),
        ({1: ["SIGUSR1"]}, "SIGUSR1"),
        ({1: ["SIGINT"]}, "SIGINT"),
        ({0: ["SIGHUP"]}, "SIGHUP"),
        ({0: ["SIGTERM", "SIGTERM"], 1: ["SIGTERM"]}, "SIGTERM"),
    ],
)
def test_a_signal_to_any_rank_stops_all_at_the_same_step(pair: Pair, victims: dict[int, list[str]], name: str):
    first, second = pair.run(_signalled, victims, 3)
    assert first == second
    step, answer, given_back = first
    assert answer == f"{name} received"
    assert 4 <= step <= 5, "at once, or at the next step: the question takes one step"
    assert given_back


def test_without_a_signal_nothing_stops(pair: Pair):
    assert pair.run(_signalled, {}, 3) == [(20, None, True)] * 2


def _apart(rank: int, world_size: int, phases: list[Phase], images: list[int]) -> str | None:
    """What was said against the second of two steps at most."""
    agreement = Agreement(Ranks(30))
    try:
        for _ in range(2):
            agreement.stop(images[rank], phases[rank])
    except RuntimeError as error:
        return str(error)
    finally:
        agreement.close()
    return None


HERE = Phase(1, 7, 8, 0.5, 8, 1.0)


@pytest.mark.parametrize(
    ("phase", "images"),
    [
        (HERE, 16),
        (Phase(1, 7, 16, 0.5, 8, 1.0), 8),
        (Phase(1, 7, 8, 0.5 + 1e-12, 8, 1.0), 8),
        (Phase(1, 7, 8, 0.5, 16, 1.0), 8),
        (Phase(1, 7, 8, 0.5, 8, 0.5), 8),
    ],
)
def test_ranks_at_different_places_of_the_schedule_are_noticed(pair: Pair, phase: Phase, images: int):
    assert pair.run(_apart, [HERE, HERE], [8, 8]) == [None, None]
    for rank, text in enumerate(pair.run(_apart, [HERE, phase], [8, images])):
        assert f"at different places of the schedule; rank {rank} is at {[8, images][rank]} images" in text


@contextmanager
def watched() -> Iterator[set[tuple[str, str]]]:
    """-> what a thread sees of the main thread meanwhile: states and innermost functions."""
    main, seen, done = threading.get_ident(), set(), threading.Event()

    def look() -> None:
        while not done.is_set():
            state, where = standing(sys._current_frames()[main], on_gpu=False, several=True)
            seen.add((state, where.partition(" < ")[0].rpartition(" ")[2]))
            time.sleep(0.01)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def _seen_in_an_agreement(rank: int, world_size: int) -> set[tuple[str, str]]:
    """Of a rank that waits for rank 1's first question."""
    agreement = Agreement(Ranks(30))
    try:
        with watched() as seen:
            for step in range(3):
                if rank == 1 and step == 0:
                    time.sleep(0.3)
                agreement.stop(8 * step, HERE)
            agreement.settle()
    finally:
        agreement.close()
    return seen


def _seen_in_a_first_pass(rank: int, world_size: int) -> set[tuple[str, str]]:
    """Of a rank that waits for rank 1 in the second pass of wrapped layers, before which their buckets are agreed."""
    layers = DistributedDataParallel(torch.nn.Linear(4, 4), broadcast_buffers=False)
    layers(torch.ones(2, 4)).sum().backward()
    if rank == 1:
        time.sleep(0.3)
    with watched() as seen:
        layers(torch.ones(2, 4)).sum().backward()
    return seen


def test_a_rank_in_an_agreement_is_seen_to_wait_for_the_others(pair: Pair):
    waiting, _ = pair.run(_seen_in_an_agreement)
    assert (WAITS, "_exchange") in waiting
    assert (WORKS, "_exchange") not in waiting


def test_a_rank_before_its_first_step_is_seen_to_wait_for_the_others(pair: Pair):
    waiting, _ = pair.run(_seen_in_a_first_pass)
    assert (WAITS, "_pre_forward") in waiting
    assert (WORKS, "_pre_forward") not in waiting


ORPHAN = """
import sys, time
from pathlib import Path
from t2f_dist.training.growth import Phase
from t2f_dist.training.launch.ranks import Agreement, Ranks
folder = Path(sys.argv[1])
agreement = Agreement(Ranks(30))
assert agreement.stop(0, Phase(0, 0, 4, 1.0, 8, 1.0)) is None
(folder / "ready").touch()
answer, deadline = None, time.monotonic() + float(sys.argv[2])
while answer is None and time.monotonic() < deadline:
    time.sleep(0.01)
    answer = agreement.stop(8, Phase(0, 0, 4, 1.0, 8, 1.0))
(folder / "answer.tmp").write_text(str(answer))
(folder / "answer.tmp").rename(folder / "answer")
"""
LAUNCHER = "import subprocess, sys, time; subprocess.Popen([sys.executable, *sys.argv[1:]]); time.sleep(60)"


@pytest.mark.parametrize(
    ("started_by", "seconds", "answer"),
    [({"TORCHELASTIC_RUN_ID": "none"}, 30, LAUNCHER_KILLED), ({}, 0.3, "None")],
    ids=["launcher", "shell"],
)
def test_a_run_stops_with_its_launcher_but_not_with_the_shell_that_started_it(
    tmp_path: Path, started_by: dict[str, str], seconds: float, answer: str
):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | started_by
    line = [sys.executable, "-c", LAUNCHER, "-c", ORPHAN, str(tmp_path), str(seconds)]
    launcher = subprocess.Popen(line, env=environment)
    try:
        _wait_for(tmp_path / "ready")
    finally:
        launcher.kill()
        launcher.wait()
    _wait_for(tmp_path / "answer")
    assert (tmp_path / "answer").read_text() == answer


REAPER = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER, which outlives the exec
start = "import subprocess, sys; subprocess.Popen([sys.executable, *sys.argv[1:]])"
line = [sys.executable, "-c", start, "-c", sys.argv[1], sys.argv[2], str(os.getpid())]
subprocess.run(line, env=os.environ | {"TORCHELASTIC_RUN_ID": "none"})
os.execv("/bin/sleep", ["sleep", "60"])
"""
LATE = """
import os, signal, sys, time
from pathlib import Path
while "sleep" not in os.readlink(f"/proc/{sys.argv[2]}/exe"):
    time.sleep(0.01)
assert os.getppid() == int(sys.argv[2])
from t2f_dist.training.launch import launcher
signal.signal(signal.SIGTERM, lambda number, frame: Path(sys.argv[1], "told").touch())
launcher.miss()
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_a_rank_whose_launcher_died_before_it_looked_is_told_so(tmp_path: Path):
    environment = {name: text for name, text in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
    environment["PYTHONPATH"] = str(ROOT)
    reaper = subprocess.Popen(
        [sys.executable, "-c", REAPER, LATE, str(tmp_path)], env=environment, start_new_session=True
    )
    try:
        _wait_for(tmp_path / "told")
    finally:
        os.killpg(reaper.pid, signal.SIGKILL)
        reaper.wait()


def test_a_script_between_the_launcher_and_a_rank_is_no_reaper():
    rank = "import time; from t2f_dist.training.launch import launcher; launcher.miss(); time.sleep(0.3)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TORCHELASTIC_RUN_ID": "none"}
    line = ["/bin/sh", "-c", f"{sys.executable} -c '{rank}'; exit $?"]
    assert subprocess.run(line, env=environment, check=False).returncode == 0


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.02)


WITHOUT_LAUNCHER = """
import torch
from t2f_dist.training.launch.ranks import Ranks
ranks = Ranks(60)
assert ranks.store is not None
ranks.store.set(f"rank {ranks.rank}", "is here")
ranks.barrier()
others = [ranks.store.get(f"rank {rank}").decode() for rank in range(3)]
print(ranks.rank, ranks.describe().partition(",")[0], *others, ranks.mean(torch.ones(1).double()).item(), sep="; ")
ranks.leave()
"""


@pytest.mark.slow
def test_srun_needs_no_launcher():
    """Ranks with nothing but their numbers and an address: rank 0 keeps the store."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment |= {"WORLD_SIZE": "3", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", WITHOUT_LAUNCHER]
    ranks = [
        subprocess.Popen(line, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    try:
        said = [process.communicate(timeout=180)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    here = "is here; is here; is here; 1.0"
    assert said == [f"{rank}; world size 3 (gloo); {here}\n" for rank in range(3)]
