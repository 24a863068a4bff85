"""How long a rank may stay in a phase before it hangs: not as long in all of them."""

from __future__ import annotations

# Until the first step is done: libraries are loaded, shards and checkpoints opened, kernels chosen and compiled, and
# nothing tells how far that is.
START_SECONDS = 900.0
STARTING = ("starting", "resuming")

# Where the main thread may be waiting for storage. That gives up by itself, and then says more than a watchdog can: a
# place that answers nothing after about 210 s (5 tries of 10 s to connect and 30 s to read), one that answers slowly
# after 550 s a try, for 32 MiB (storage.patience). Three quarters of this, which the others wait, are more.
STORAGE_SECONDS = 900.0
FETCHING = "waiting for remote data"
OF_STORAGE = ("resuming", FETCHING, "saving a checkpoint")

# An exchange waits so many times longer than a rank may take, for the watchdog knows more to say.
EXCHANGES_WAIT = 2


def bound_of(seconds: float, phase: str, begun: bool) -> float:
    """Seconds that a main thread may stay in a phase; seconds: in any other; begun: the first step is done."""
    if not begun or phase in STARTING:
        return max(START_SECONDS, seconds)
    return max(STORAGE_SECONDS, seconds) if phase in OF_STORAGE else seconds


def longest(seconds: float) -> float:
    """Of all phases."""
    return max(START_SECONDS, STORAGE_SECONDS, seconds)
