"""Processes that share a cache, and that are killed while they do."""

import json
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from t2f_dist.storage.cache import Cache
from t2f_dist.storage.space import Space
from tests.children import children
from tests.storage import jobs
from tests.web import Web, served

WAIT_SECONDS = 60.0


@contextmanager
def node() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """-> what starts a process, of a job and its arguments."""
    with children() as child:
        yield lambda job, *arguments: child("tests.storage.jobs", job.__name__, json.dumps(arguments))


def begun(process: subprocess.Popen[str]) -> None:
    assert process.stdout and process.stderr
    assert process.stdout.readline() == "begun\n", process.stderr.read()


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str]) -> None:
    assert process.stdout and process.stderr
    process.wait(WAIT_SECONDS)
    assert (process.returncode, process.stdout.read()) == (0, "done\n"), process.stderr.read()


@contextmanager
def watched(folder: Path, max_bytes: int) -> Iterator[list[int]]:
    """-> what is in the folder of a cache, again and again; never more than may be."""
    space, sums, ended = Space(folder, max_bytes), list[int](), threading.Event()

    def look() -> None:
        while not ended.wait(0.002):
            with space.locked():  # else one file may have gone before another is looked at
                files = [path for path in folder.rglob("*") if path.suffix not in (".fetch", ".lock", ".pins")]
                sums.append(sum(path.stat().st_size for path in files if path.is_file()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sums
    finally:
        ended.set()
        thread.join()
    assert max(sums) <= max_bytes


def fill(web: Web, sizes: list[int]) -> str:
    for number, size in enumerate(sizes):
        web.put(f"/{number}.tar", jobs.content(number, size))
    return web.url


def check_nothing_passes(folder: Path) -> None:
    assert [path.name for path in folder.iterdir() if path.suffix in (".fetch", ".part", ".pins")] == []


def test_each_file_is_fetched_once_a_node(tmp_path: Path):
    sizes = [100_000 + 1000 * number for number in range(12)]
    with served() as web, node() as start:
        web.always["/3.tar"] = "slow"
        job = [str(tmp_path), sum(sizes), fill(web, sizes), sizes]
        processes = [start(jobs.read_each, *job, seed) for seed in range(4)]
        for process in processes:
            begun(process)
        for process in processes:
            say(process, "go")
        for process in processes:
            finish(process)
        assert web.gets == {f"/{number}.tar": 1 for number in range(12)}
    check_nothing_passes(tmp_path)


@pytest.mark.slow
def test_the_bound_holds_whatever_processes_do(tmp_path: Path):
    sizes = [random.Random(number).randrange(50_000, 300_000) for number in range(16)]
    max_bytes = 1_800_000  # what four processes hold, two files each, fits always; all files do not
    with served() as web, watched(tmp_path, max_bytes) as sums, node() as start:
        web.faults["/1.tar"], web.faults["/2.tar"] = ["flipped", "cut"], ["longer", "short"]
        job = [str(tmp_path), max_bytes, fill(web, sizes), sizes]
        processes = [start(jobs.read_all, *job, seed, 60) for seed in range(4)]
        for process in processes:
            begun(process)
        for process in processes:
            finish(process)
    assert len(sums) > 50
    assert max(sums) > 0.8 * max_bytes
    check_nothing_passes(tmp_path)


def kill_at_random(folder: Path, num_kills: int, seed: int) -> None:
    """Kill one of three again and again, and start another; those that live see nothing of it."""
    draws = random.Random(seed)
    sizes = [draws.randrange(100_000, 600_000) for _ in range(12)]
    max_bytes = 3_600_000
    with served() as web, watched(folder, max_bytes), node() as start:
        job = [str(folder), max_bytes, fill(web, sizes), sizes]
        for number in range(0, 12, 3):
            web.always[f"/{number}.tar"] = "slow"  # many kills hit a download
        to_the_end = start(jobs.read_all, *job, seed, 8)
        others = [start(jobs.read_all, *job, seed + 1 + number, 1_000_000) for number in range(2)]
        begun(to_the_end)
        for number in range(num_kills):
            victim = others.pop(0)
            begun(victim)
            time.sleep(draws.uniform(0.0, 0.4))
            victim.kill()
            if number < num_kills - 2:
                others.append(start(jobs.read_all, *job, seed + 3 + number, 1_000_000))
        finish(to_the_end)
        web.always.clear()
        started_at = time.monotonic()
        cache = Cache(folder, max_bytes)
        for number, remote in enumerate(jobs.remotes(web.url, sizes)):
            with cache.get(*remote) as held:
                jobs.check(held.path, number, sizes)
        assert time.monotonic() - started_at < 3.0
    check_nothing_passes(folder)


def test_a_kill_leaves_nothing_that_blocks_or_counts(tmp_path: Path):
    kill_at_random(tmp_path, num_kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_kills_leave_nothing_that_blocks_or_counts(tmp_path: Path, seed: int):
    kill_at_random(tmp_path, num_kills=20, seed=100 * (1 + seed))
