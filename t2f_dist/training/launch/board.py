"""What the ranks write down for each other, read and written by a thread that may hang in it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch.distributed as dist

from t2f_dist.training.launch.place import Place


class Verdict(NamedTuple):
    line: str
    rank: int  # that came to it
    host: str


class Board:
    """A rank's entries in the store of the launch.

    A store whose host is gone answers nothing and raises nothing, for as long as TCP tries. So every request goes
    through one thread of this object, and whoever asks waits as long as he likes. One request at a time.
    """

    def __init__(self, store: dist.Store, prefix: str, rank: int, world_size: int):
        self._store = dist.PrefixStore(prefix, store)
        self._keys = [str(other) for other in range(world_size)]
        self._rank = rank
        self._request: Callable[[], Any] | None = None
        self._asked = threading.Semaphore(0)
        self._answered = threading.Event()
        self._answered.set()
        self._answer: Any = None
        self.error: str | None = None  # the store broke the connection
        threading.Thread(target=self._serve, name="board", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._asked.acquire()
            if self._request is None:
                return
            try:
                self._answer = self._request()
            except Exception as error:
                # DistNetworkError, DistStoreError and others: after each the connection is of no more use.
                self.error = f"{type(error).__name__}: {error}".splitlines()[0]
            self._answered.set()

    @property
    def idle(self) -> bool:
        return self._answered.is_set() and self.error is None

    def ask(self, request: Callable[[], Any]) -> None:
        """Start a request, where none is under way."""
        if self.idle:
            self._answer = None
            self._answered.clear()
            self._request = request
            self._asked.release()

    def answer(self, seconds: float) -> Any:
        """The answer to the last request, waited for so long; None where it did not come."""
        return self._answer if self._answered.wait(seconds) and self.error is None else None

    def demand(self, request: Callable[[], Any], seconds: float) -> Any:
        """The answer to a request, after the one under way, each waited for so long; None where it did not come."""
        self._answered.wait(seconds)
        self.ask(request)
        return self.answer(seconds)

    def close(self) -> None:
        if self._answered.is_set():  # else the thread hangs, and goes with the process
            self._request = None
            self._asked.release()

    # Requests.

    def write(self, place: Place) -> bool:
        self._store.set(self._keys[self._rank], place.packed())
        return True

    def read(self) -> tuple[list[Place], Verdict | None]:
        """Where all ranks stand, and the verdict where one of them has come to it. All ranks wrote before."""
        places = [Place.unpacked(entry) for entry in self._store.multi_get(self._keys)]
        return places, _verdict(self._store.get("verdict")) if self._store.check(["verdict"]) else None

    def settle(self, own: Verdict) -> Verdict:
        """The verdict of all ranks: of whoever was first."""
        return _verdict(self._store.compare_set("verdict", "", json.dumps(own)))

    def count_leaving(self, number: int) -> int:
        """Ranks that have written down their stacks, `number` more than before."""
        return self._store.add("leaving", number)


def _verdict(entry: bytes) -> Verdict:
    return Verdict(*json.loads(entry))
