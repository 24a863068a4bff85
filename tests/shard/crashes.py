"""A process that is killed by SIGKILL just before its n-th change of the disk, for every n."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator

_CHANGES = ("replace", "unlink", "rmdir", "fsync")


def _die_before(number: int) -> None:
    """In this process: count calls that change the disk, and die before one of them."""
    done = 0

    def counted(change: Callable) -> Callable:
        def call(*arguments, **options):
            nonlocal done
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return change(*arguments, **options)

        return call

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def killed_before(number: int, call: Callable[[], object]) -> bool:
    """Do a call in a fork that dies before its n-th change; whether it did die, and did not end before that."""
    child = os.fork()
    if child == 0:
        try:
            _die_before(number)
            call()
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


def every_crash(call: Callable[[], object], step: int = 1) -> Iterator[int]:
    """Each n at which the call can be killed, after it was; the caller puts things back in between."""
    number = 0
    while killed_before(number, call):
        yield number
        number += step
