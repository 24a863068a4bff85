"""How the ranks of a launch find each other, at every attempt.

A launcher that restarts its ranks in place (--max_restarts) hands them the store of the attempt before, and torch's own
rendezvous then reads the addresses of the dead there. A number of the attempt from the environment would not do: hosts
count restarts differently. So rank 0 of each attempt names it by a fresh token, and everyone else says hello to that:

    t2f/latest              the newest token
    t2f/TOKEN/hello/RANK    who came: a nonce of that process, its host
    t2f/TOKEN/go            whom rank 0 has seen, of every rank. A process that is not in it belongs to a later attempt.

What the process group and others keep in the store stands below `t2f/TOKEN/`, where no other attempt looks.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from t2f_dist.training.launch import host

POLL_SECONDS = (0.02, 0.5)  # between two looks into the store: at first, and at last
CONNECT_TRIES = 5  # gloo waits for a group's timeout as often, where a rank is gone that it was told of
GRACE_SECONDS = 3.0  # for the last look at who is missing
INTERFACE = "GLOO_SOCKET_IFNAME"


class Absent(ConnectionError):
    """Ranks that did not come, or cannot be reached. The same command may well succeed later."""


@dataclass(frozen=True)
class Arrival:
    """One rank of an attempt, as it introduces itself."""

    nonce: str  # of the process: a rank that is started again is another
    host: str
    address: str | None  # of its host towards rank 0's; None for rank 0's host itself


@dataclass(frozen=True)
class Attempt:
    """A group that all ranks have joined.

    `store` is of this attempt alone, and a connection of its own: another thread may use it while the group uses the
    group's (a store's operations wait for each other, also for one that waits).
    """

    store: dist.Store
    num_hosts: int


def join(timeout_seconds: float, group_timeout: timedelta) -> Attempt | None:
    """Join torch's default process group with all ranks of the launch; None for a process that was not launched.

    Where there are several hosts, gloo gets the interface by which they reach each other.

    timeout_seconds: how long to wait for the others, and then once more until all are connected.
    group_timeout: of the group's operations.
    Raises Absent, naming the ranks that did not come as far as this one can know.
    """
    if dist.is_initialized() or any(name not in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")):
        return None
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    deadline = time.monotonic() + timeout_seconds
    store = _connect(rank, deadline, timeout_seconds)
    me = Arrival(secrets.token_hex(8), host.identity(), host.address_towards(os.environ["MASTER_ADDR"]))
    token, arrivals = _meet_in_time(store, rank, world_size, me, deadline, timeout_seconds)
    num_hosts = len({arrival.host for arrival in arrivals})
    if num_hosts > 1 and INTERFACE not in os.environ:
        _choose_interface(me, arrivals)
    own = dist.PrefixStore(f"t2f/{token}", store)
    on_gpu = torch.cuda.is_available() and "LOCAL_RANK" in os.environ
    with connecting(rank, timeout_seconds) as connect_timeout:
        group = dist.PrefixStore("group", own)
        backend = "nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=group, rank=rank, world_size=world_size, timeout=connect_timeout)
    _set_pg_timeout(group_timeout)
    attempt = Attempt(dist.PrefixStore(f"t2f/{token}", store.clone()), num_hosts)  # type: ignore[attr-defined]
    store.set_timeout(group_timeout)  # NCCL connects at the first exchange, where rank 0 may still be preparing a run
    return attempt


def new_group(rank: int, timeout_seconds: float, group_timeout: timedelta) -> dist.ProcessGroup:
    """One more group of all ranks, over gloo. All of them call. Arguments and errors as of `join`."""
    with connecting(rank, timeout_seconds) as connect_timeout:
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=connect_timeout))
    _set_pg_timeout(group_timeout, group)
    return group


@contextmanager
def connecting(rank: int, timeout_seconds: float) -> Iterator[timedelta]:
    """-> the timeout to give a group while it is connected, so that all of that ends within `timeout_seconds`.

    Raises Absent where the others were met in the store, and then there was no way to one of them.
    """
    try:
        yield timedelta(seconds=timeout_seconds / CONNECT_TRIES)
    except RuntimeError as error:
        interface = os.environ.get(INTERFACE)
        raise Absent(
            f"rank {rank} cannot reach the others{f' by {interface}' if interface else ''}: a rank was lost as they"
            f" met, or hosts reach each other by another network interface (set {INTERFACE}): {_first_line(error)}"
        ) from error


def meet(
    store: dist.Store, rank: int, world_size: int, me: Arrival, deadline: float, timeout_seconds: float
) -> tuple[str, list[Arrival]]:
    """-> the attempt's token, and its ranks in order. The same for all of them, and for no process but them.

    Raises Absent at `deadline` (of time.monotonic), which is `timeout_seconds` after the beginning.
    """
    if rank == 0:
        return _call(store, world_size, me, deadline, timeout_seconds)
    return _answer(store, rank, world_size, me, deadline, timeout_seconds)


def _meet_in_time(
    store: dist.Store, rank: int, world_size: int, me: Arrival, deadline: float, timeout_seconds: float
) -> tuple[str, list[Arrival]]:
    """`meet`, also where the network to the store is cut: its operations would wait until that is mended."""
    answer: SimpleQueue[tuple[str, list[Arrival]] | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            answer.put(meet(store, rank, world_size, me, deadline, timeout_seconds))
        except BaseException as error:  # raised below
            answer.put(error)

    threading.Thread(target=run, name="rendezvous", daemon=True).start()
    try:
        found = answer.get(timeout=max(0.0, deadline - time.monotonic()) + GRACE_SECONDS)
    except Empty:
        found = RuntimeError(f"it does not answer within {timeout_seconds:g} s (train.timeout_seconds)")
    if isinstance(found, RuntimeError):
        raise Absent(f"rank {rank} lost the launch's store as the ranks met: {_first_line(found)}") from None
    if isinstance(found, BaseException):
        raise found
    return found


def _call(
    store: dist.Store, world_size: int, me: Arrival, deadline: float, timeout_seconds: float
) -> tuple[str, list[Arrival]]:
    token = secrets.token_hex(8)
    hellos = [f"t2f/{token}/hello/{rank}" for rank in range(1, world_size)]
    store.set("t2f/latest", token)
    wait = POLL_SECONDS[0]
    while hellos and not store.check(hellos):
        if time.monotonic() > deadline:
            raise _absent(store, token, world_size, timeout_seconds)
        wait = _pause(wait)
    texts = store.multi_get(hellos) if hellos else []
    everyone = [asdict(me), *(json.loads(text) for text in texts)]
    store.set(f"t2f/{token}/go", json.dumps(everyone))
    return token, [Arrival(**arrival) for arrival in everyone]


def _answer(
    store: dist.Store, rank: int, world_size: int, me: Arrival, deadline: float, timeout_seconds: float
) -> tuple[str, list[Arrival]]:
    token, refused = "", ""
    wait = POLL_SECONDS[0]
    while time.monotonic() < deadline:
        latest = store.get("t2f/latest").decode() if store.check(["t2f/latest"]) else ""
        if latest != token:  # rank 0 was started again, or for the first time
            token, wait = latest, POLL_SECONDS[0]
            store.set(f"t2f/{token}/hello/{rank}", json.dumps(asdict(me)))
        if token not in ("", refused) and store.check([f"t2f/{token}/go"]):
            everyone = [Arrival(**arrival) for arrival in json.loads(store.get(f"t2f/{token}/go"))]
            if len(everyone) == world_size and everyone[rank] == me:
                return token, everyone
            refused = token  # of an attempt before this process: its rank 0 will be started again too
        wait = _pause(wait)
    raise _absent(store, "" if token == refused else token, world_size, timeout_seconds)


def _pause(seconds: float) -> float:
    """Wait; -> how long the next time. Hundreds of ranks that look often would keep the store busy."""
    time.sleep(seconds)
    return min(seconds * 1.2, POLL_SECONDS[1])


def _absent(store: dist.Store, token: str, world_size: int, timeout_seconds: float) -> Absent:
    """Who did not say hello to `token`; without a token, rank 0 is missed by all."""
    others = range(1, world_size) if token else ()
    ranks = [rank for rank in others if not store.check([f"t2f/{token}/hello/{rank}"])] or [0]
    some = ", ".join(map(str, ranks[:16])) + (f" and {len(ranks) - 16} more" if len(ranks) > 16 else "")
    return Absent(
        f"rank{'s' * (len(ranks) > 1)} {some} of {world_size} did not come within {timeout_seconds:g} s"
        " (train.timeout_seconds): look at their hosts' output, then start the same command on every host"
    )


def _connect(rank: int, deadline: float, timeout_seconds: float) -> dist.TCPStore:
    """The store that the launcher keeps; where there is none (srun without a launcher), rank 0 keeps it."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ.get("MASTER_PORT", "29500"))
    keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    # TCPStore's own tries take up to three times their timeout, and print pages: it is asked when somebody answers.
    while not keeps and not _answers(address, port):
        if time.monotonic() > deadline:
            raise Absent(
                f"rank {rank} finds nobody at {address} port {port} (MASTER_ADDR, MASTER_PORT) within"
                f" {timeout_seconds:g} s: is rank 0's host running, and the port open?"
            )
        time.sleep(POLL_SECONDS[1])
    timeout = timedelta(seconds=timeout_seconds)
    try:
        return dist.TCPStore(
            address, port, None, is_master=keeps, timeout=timeout, wait_for_workers=False, multi_tenant=True
        )
    except RuntimeError as error:
        raise Absent(
            f"rank {rank} has no store at {address} port {port} (MASTER_ADDR, MASTER_PORT): {_first_line(error)}"
        ) from None


def _first_line(error: RuntimeError) -> str:
    return (str(error).splitlines() or [""])[0]


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=POLL_SECONDS[1] * 4).close()
    except OSError:
        return False
    return True


def _choose_interface(me: Arrival, arrivals: list[Arrival]) -> None:
    """Tell gloo by which interface the other hosts are reached.

    Left alone it takes the address of the host's own name, which on Debian is 127.0.1.1.
    """
    own = me.address
    if own is None:  # rank 0's host, by a name that leads to itself: see which way the other hosts are
        others = (arrival.address for arrival in arrivals if arrival.host != me.host and arrival.address)
        own = next((found for found in map(host.address_towards, others) if found), None)
    interface = host.interface_of(own) if own else None
    if interface:
        os.environ[INTERFACE] = interface
