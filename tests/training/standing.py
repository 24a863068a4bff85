"""Ranks that take part in exchanges under a watchdog, until one of them hurts itself.

    python -m tests.training.standing KIND SECONDS RUN [RANKS]

Prints a line of JSON: exit code and seconds from the fault to the end, by rank. KIND is one of HURTS; or "slow": each
step takes long and none too long; "quiet"; or "paused": there is time to stop all processes from outside, from when a
file `hurt-0` appears. One import of torch serves all ranks, which are forked from it.
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.launch.watchdog import Watchdog
from t2f_dist.training.run import status

STEPS = 12
HURT_AT = 320  # images
BATCH = 64
STORE = """
import sys, time
import torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(600)
"""


def asleep() -> None:
    time.sleep(1000)


def in_another_exchange() -> None:
    dist.all_reduce(torch.zeros(1))


def stopped() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def keeping_the_interpreter() -> None:
    """A deadlock in C, by a mutex that is locked twice."""
    library, mutex = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def matching() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


def dozing() -> None:
    time.sleep(1)


HURTS: dict[str, Callable[[], None]] = {
    "asleep": asleep,
    "exchange": in_another_exchange,
    "stopped": stopped,
    "interpreter": keeping_the_interpreter,
    "matching": matching,
    "store": asleep,
    "cut": asleep,
    "paused": dozing,
}


def work(ranks: Ranks, kind: str, seconds: float, run: Path, store: int) -> None:
    with Watchdog(ranks, seconds, run) as watchdog:
        if kind == "slow" and ranks.rank == 1:
            time.sleep(2 * seconds)  # before the first step this is allowed
        for step in range(STEPS):
            images_seen = step * BATCH
            watchdog.enter("agreeing", images_seen)
            ranks.barrier()
            watchdog.enter("waiting for data", images_seen)
            if kind == "slow" and step % 2 == ranks.rank % 2:
                time.sleep(0.6 * seconds)
            time.sleep(0.02)
            if images_seen == HURT_AT and kind in HURTS:
                time.sleep(seconds / 5)  # some turns of the watchdog, so that it knows of a step
                (run / f"hurt-{ranks.rank}").touch()
                if kind in ("store", "cut") and ranks.rank == 0:
                    # A store that is gone resets the connection; one behind a cut network is silent.
                    os.kill(store, signal.SIGKILL if kind == "store" else signal.SIGSTOP)
                if ranks.rank == ranks.world_size - 1:
                    HURTS[kind]()
            watchdog.enter("training step", images_seen)
            ranks.barrier()
        watchdog.enter("leaving", STEPS * BATCH)
    ranks.leave()


def main(kind: str, seconds: float, run: Path, num_ranks: int) -> None:
    holder = subprocess.Popen([sys.executable, "-c", STORE], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    os.environ |= {
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": holder.stdout.readline().strip(),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }
    status.write(run, "running", "training")
    pids = {}
    for rank in range(num_ranks):
        pid = os.fork()
        if pid == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            work(Ranks(int(10 * seconds + 60)), kind, seconds, run, holder.pid)
            sys.stdout.flush()
            os._exit(0)
        pids[pid] = rank
    ends = {}
    while pids:
        pid, code = os.wait()
        if pid in pids:
            ends[pids.pop(pid)] = (os.waitstatus_to_exitcode(code), time.time())
    holder.kill()
    holder.wait()
    hurt = run / f"hurt-{num_ranks - 1}"
    since = hurt.stat().st_mtime if hurt.exists() else time.time()
    print(json.dumps({rank: [code, ended - since] for rank, (code, ended) in sorted(ends.items())}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), int((sys.argv[4:] or ["2"])[0]))
