"""A worker process, and what it owes the process that started it."""

import multiprocessing
import os
import signal
import threading


def belong_to_parent() -> None:
    """In a worker, first of all: leave interrupts to the parent, which ends its workers, and end when the parent does.

    A worker that waits for work would wait for ever where the parent is killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
