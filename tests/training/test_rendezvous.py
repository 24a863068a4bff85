"""Ranks find each other at every attempt: real stores on the loopback, with what earlier attempts left in them."""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from t2f_dist.training.launch.rendezvous import Absent, Arrival, meet
from tests.hosts import hosts

ROOT = Path(__file__).resolve().parents[2]
Met = tuple[str, list[Arrival]]


class Launch:
    """A launcher's store, and processes that meet in it: each a thread with a connection of its own."""

    def __init__(self, world_size: int, pool: ThreadPoolExecutor):
        self.world_size, self._pool = world_size, pool
        self.server = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=30), wait_for_workers=False)
        self._born = 0
        self._clients: list[tuple[dist.TCPStore, Future[Met]]] = []  # to connect may take a while: who has left lends

    def client(self) -> dist.TCPStore:
        for place, (client, user) in enumerate(self._clients):
            if user.done():
                del self._clients[place]
                return client
        port = self.server.port
        return dist.TCPStore("127.0.0.1", port, None, False, timedelta(seconds=30), wait_for_workers=False)

    def come(self, rank: int, seconds: float = 60) -> tuple[Arrival, Future[Met]]:
        """A new process of this rank arrives."""
        self._born += 1
        me = Arrival(f"process {self._born}", f"host {rank % 2}", None)
        client = self.client()
        deadline = time.monotonic() + seconds
        future = self._pool.submit(meet, client, rank, self.world_size, me, deadline, seconds)
        self._clients.append((client, future))
        return me, future

    def attempt(self) -> str:
        """All ranks come, in any order, and meet each other; their token."""
        order = random.sample(range(self.world_size), self.world_size)
        came = {rank: self.come(rank) for rank in order}
        everyone = [came[rank][0] for rank in range(self.world_size)]
        tokens = set()
        for _, future in came.values():
            token, met = future.result(60)
            assert met == everyone
            tokens.add(token)
        (token,) = tokens
        return token


@pytest.fixture
def launch() -> Iterator[Callable[[int], Launch]]:
    with ThreadPoolExecutor(64) as pool:
        yield lambda world_size: Launch(world_size, pool)


def test_every_attempt_meets_only_itself(launch: Callable[[int], Launch]):
    of_three = launch(3)
    assert len({of_three.attempt() for _ in range(8)}) == 8


@pytest.mark.slow  # connecting takes a while
def test_many_ranks_meet(launch: Callable[[int], Launch]):
    of_sixty = launch(60)
    first = of_sixty.attempt()
    started = time.monotonic()
    assert of_sixty.attempt() != first
    assert time.monotonic() - started < 20


def test_one_rank_needs_nobody(launch: Callable[[int], Launch]):
    assert launch(1).attempt()


def test_ranks_that_start_again_before_rank_0_wait_for_its_new_token(launch: Callable[[int], Launch]):
    of_three = launch(3)
    before = of_three.attempt()
    early, first = of_three.come(1)
    time.sleep(0.3)
    assert not first.done(), "what it finds in the store is of the attempt before"
    (late, second), (main, third) = of_three.come(2), of_three.come(0)
    found = [future.result(60) for future in (first, second, third)]
    assert found == [found[0]] * 3
    assert found[0][1] == [main, early, late]
    assert found[0][0] != before


def test_a_rank_0_that_dies_while_it_calls_is_followed_by_the_next(launch: Callable[[int], Launch]):
    """Two attempts interleaved: what was said to the dead one does not count for its successor."""
    of_three = launch(3)
    of_three.server.set("t2f/latest", "the token of a rank 0 that died")
    one, first = of_three.come(1)
    of_three.server.get("t2f/the token of a rank 0 that died/hello/1")
    (two, second), (main, third) = of_three.come(2), of_three.come(0)
    found = [future.result(60) for future in (first, second, third)]
    assert found == [(found[0][0], [main, one, two])] * 3


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_however_processes_come_and_are_replaced_the_last_ones_meet(launch: Callable[[int], Launch], seed: int):
    rng = random.Random(seed)
    of_four = launch(4)
    replaced = []
    for _ in range(rng.randrange(4, 16)):
        replaced.append(of_four.come(rng.randrange(1, 4), seconds=0.3)[1])
        time.sleep(rng.random() * 0.02)
        if rng.random() < 0.3:
            of_four.server.set("t2f/latest", f"a rank 0 that died {rng.random()}")
    for future in replaced:  # a launcher starts ranks when it has ended the former ones
        with pytest.raises(Absent):
            future.result(60)
    last = {rank: of_four.come(rank) for rank in rng.sample(range(4), 4)}
    everyone = [last[rank][0] for rank in range(4)]
    assert all(future.result(60)[1] == everyone for _, future in last.values())


def test_ranks_that_do_not_come_are_named_by_all_within_the_bound(launch: Callable[[int], Launch]):
    of_five = launch(5)
    started = time.monotonic()
    came = [of_five.come(rank, seconds=1) for rank in (0, 2, 4)]
    for _, future in came:
        with pytest.raises(Absent, match=r"^ranks 1, 3 of 5 did not come within 1 s .* on every host$"):
            future.result(60)
    assert 1 <= time.monotonic() - started < 20


def test_a_rank_0_that_does_not_come_is_named(launch: Callable[[int], Launch]):
    of_two = launch(2)
    of_two.attempt()
    _, future = of_two.come(1, seconds=1)
    with pytest.raises(Absent, match=r"^rank 0 of 2 did not come within 1 s"):
        future.result(60)


# Joins three times against one store, as three processes of a launcher's rank would, and uses the attempt's store from
# another thread; then rank 0 meets a rank 1 that is gone when it is to be connected, and rank 1 looks in a wrong place.
JOINING = """
import os, sys, threading, time
from datetime import timedelta
import torch, torch.distributed as dist
from t2f_dist.training.launch import rendezvous
rank = int(os.environ["RANK"])
for attempt in range(3):
    joined = rendezvous.join(60, timedelta(seconds=60))
    store = joined.store
    assert joined.num_hosts == 1 and not store.check(["seen"]), "keys of the attempt before"
    dist.barrier()
    if rank == 0:
        threading.Timer(0.2, store.set, ("seen", "by all")).start()
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total.item() == 2
    if rank == 1:
        assert store.get("seen") == b"by all"
    dist.barrier()
    dist.destroy_process_group()
print("three attempts", flush=True)
if rank == 1:
    os.environ["MASTER_PORT"] = sys.argv[1]
started = time.monotonic()
try:
    rendezvous.join(4, timedelta(seconds=600))
except rendezvous.Absent as error:
    print(f"{time.monotonic() - started:.0f} s: {error}", flush=True)
"""


@contextmanager
def _joining(launch: Launch, wrong_port: int) -> Iterator[list[subprocess.Popen[str]]]:
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(launch.server.port), "WORLD_SIZE": "2"}
    environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    line = [sys.executable, "-c", JOINING, str(wrong_port)]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(line, env=environment | {"RANK": rank}, text=True, **pipes) for rank in "01"]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_real_groups_are_joined_again_in_the_store_of_the_attempt_before(launch: Callable[[int], Launch]):
    of_two = launch(2)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with _joining(of_two, port) as (main, other):
            assert other.stdout and other.stdout.readline() == "three attempts\n"
            _, met = of_two.come(1)  # says hello, and is never seen again
            output, errors = main.communicate(timeout=120)
            assert len(met.result(60)[1]) == 2
            assert f"rank 1 finds nobody at 127.0.0.1 port {port}" in other.communicate(timeout=120)[0]
    assert main.returncode == 0, errors
    seconds, _, message = output.splitlines()[1].partition(" s: ")
    assert message.startswith("rank 0 cannot reach the others: a rank was lost as they met"), output
    assert int(seconds) < 30, "bounded, although the group's own timeout is ten minutes"


KEEPING = """
import sys, time
from datetime import timedelta
import torch.distributed as dist
store = dist.TCPStore("0.0.0.0", 29500, None, True, timedelta(seconds=120), wait_for_workers=False)
store.set("t2f/latest", "a token")
store.wait(["t2f/a token/hello/1"])
print("hello", flush=True)
time.sleep(600)
"""
WAITING = """
import time
from datetime import timedelta
from t2f_dist.training.launch import rendezvous
started = time.monotonic()
try:
    rendezvous.join(8, timedelta(seconds=600))
except rendezvous.Absent as error:
    print(f"{time.monotonic() - started:.0f} s: {error}", flush=True)
"""


@pytest.mark.slow
def test_a_network_that_is_cut_while_ranks_meet_is_told_in_time(tmp_path: Path):
    log, told = tmp_path / "store", tmp_path / "rank"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MASTER_ADDR": "host0", "MASTER_PORT": "29500"}
    environment |= {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    with hosts(2) as (first, second):
        first.start([sys.executable, "-c", KEEPING], log, environment)
        rank = second.start([sys.executable, "-c", WAITING], told, environment)
        deadline = time.monotonic() + 120
        while "hello" not in log.read_text():
            assert time.monotonic() < deadline, told.read_text()
            time.sleep(0.02)
        second.drop()
        assert rank.wait(120) == 0
    assert "s: rank 1 lost the launch's store as the ranks met" in told.read_text()
    assert int(told.read_text().splitlines()[-1].partition(" ")[0]) < 30
