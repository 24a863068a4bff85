"""What is tracked elsewhere, without the training ever waiting for it: wandb, in a process of its own.

Messages wait in a queue of bounded length, a thread hands them on, and where that process does not keep up the oldest
are dropped; all figures are in RUN/metrics.jsonl as well.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from t2f_dist.config.load import recorded
from t2f_dist.config.redaction import redacted
from t2f_dist.config.schema import Config
from t2f_dist.training.run import status

QUEUE_MAX = 1000  # messages
REFUSAL_SECONDS = 5.0  # in which a server that is asked for (`online`) may refuse, and the run does not start
CLOSE_SECONDS = 30.0  # the end of a run waits no longer, and that of a preempted one
CLOSE_PREEMPTED_SECONDS = 10.0  # even less: the grace period of most schedulers is 30 s
# Meant for the training, which then ends this: a scheduler signals every process of a job that is to go.
NOT_FOR_IT = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


class Tracker:
    """One launch of a run in wandb. `news` gives the lines that there are to say; nothing else ever raises.

    Raises ValueError where `online` is asked for and wandb refuses within REFUSAL_SECONDS.
    """

    def __init__(self, run: Path, config: Config, mode: str):
        self.run = run
        self.run_id = status.read(run).get("wandb_id") or secrets.token_hex(4)
        status.write(run, "running", "training", wandb_id=self.run_id)
        self.mode = ""  # in which it has begun
        self._num_dropped = 0
        self._said_dropped = self._lost = self._ended = self._complete = False
        self._close_seconds = CLOSE_SECONDS
        self._waiting: deque[dict[str, Any]] = deque()
        self._changed = threading.Condition()
        self._unread = b""
        self._process = _started()
        assert self._process.stdout
        os.set_blocking(self._process.stdout.fileno(), False)
        about = {
            "project": config.wandb.project,
            "entity": config.wandb.entity,
            "name": redacted(config.wandb.name or run.resolve().name),
            "tags": redacted(config.wandb.tags),
            "id": self.run_id,
            "dir": str(run.resolve()),
            "config": recorded(config),
        }
        self._put({"mode": mode, "run": about})
        self._thread = threading.Thread(target=self._hand_on, daemon=True)
        self._thread.start()
        self._lines: list[str] = []
        if mode == "online":
            self._wait_for_refusal()

    def send(self, kind: str, **content: Any) -> None:
        """Hand on figures, a grid, an alert; at once."""
        self._put({"kind": kind, **content})

    def preempting(self) -> None:
        """The run ends because it is told to, and will go on: wandb shows it so, and the end waits less."""
        self.send("preempting")
        self._close_seconds = CLOSE_PREEMPTED_SECONDS

    def news(self) -> list[str]:
        """Lines to say, each once."""
        for answer in self._answers():
            self._take(answer)
        if not self._ended and not self._lost and self._process.poll() is not None:
            self._lost = True
            self._lines.append(f"wandb: its process has ended unasked; figures are in {self.run}/metrics.jsonl")
        if self._num_dropped and not self._said_dropped:
            self._said_dropped = True
            self._lines.append("wandb: does not keep up, so the oldest lines are dropped; metrics.jsonl has them all")
        lines, self._lines = self._lines, []
        return lines

    def close(self, exit_code: int) -> list[str]:
        """End it, within CLOSE_SECONDS whatever happens; the lines to say, with what is left to do."""
        self.send("end", exit_code=exit_code)
        deadline = time.monotonic() + self._close_seconds
        lines = self.news()
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._process.poll() is None:
            self._process.kill()  # its service notices within a second, and ends too
            lost = f"was given up after {self._close_seconds:.0f} s"
        else:
            lost = "did not come to an end"
        self._process.wait()
        self._lost = True  # nothing to be said by `news`
        lines += self.news()
        if self._num_dropped:
            lines.append(f"wandb: {self._num_dropped:,} lines were dropped; {self.run}/metrics.jsonl has them all")
        if self.mode == "offline" and self._ended and self._complete:
            lines.append(f"wandb: kept offline; to upload: {self._sync('offline-run')}")
        elif self.mode == "offline":
            fault = "is not complete" if self._ended else lost
            has_all = f"{self.run}/metrics.jsonl has all figures"
            lines.append(f"wandb: what is kept offline {fault}; {has_all}; to upload: {self._sync('offline-run')}")
        elif self.mode and not (self._ended and self._complete):
            lines.append(
                f"wandb: the upload {'is not complete' if self._ended else lost}: {self._sync('run')}; "
                f"{self.run}/metrics.jsonl has all figures"
            )
        elif not self.mode and not self._ended:
            lines.append(f"wandb: {lost} before it began; figures are in {self.run}/metrics.jsonl")
        self._thread.join(1.0)  # it closes the pipe that it writes to: a write that still waits must not be waited for
        assert self._process.stdout
        self._process.stdout.close()
        return lines

    def _sync(self, kind: str) -> str:
        # Each start of the run has a folder, with -1 after its name if within a second of another.
        return f"wandb sync {self.run}/wandb/{kind}-*-{self.run_id}*"

    def _put(self, message: dict[str, Any]) -> None:
        with self._changed:
            if len(self._waiting) >= QUEUE_MAX:
                # The first message says what the run is, and an end must arrive.
                oldest = next((each for each in self._waiting if each.get("kind") in ("figures", "grid")), None)
                if oldest is not None:
                    self._waiting.remove(oldest)
                    self._num_dropped += 1
            self._waiting.append(message)
            self._changed.notify()

    def _hand_on(self) -> None:
        assert self._process.stdin
        with self._process.stdin as pipe:
            while True:
                with self._changed:
                    while not self._waiting:
                        self._changed.wait()
                    message = self._waiting.popleft()
                content = memoryview((json.dumps(message) + "\n").encode())
                try:
                    while content:
                        content = content[pipe.write(content) :]
                except (OSError, ValueError):  # it is gone, or killed: `news` says so
                    return
                if message.get("kind") == "end":
                    return

    def _answers(self) -> list[dict[str, Any]]:
        pipe = self._process.stdout
        assert pipe
        while True:
            try:
                content = pipe.read(65536)
            except (OSError, ValueError):
                content = b""
            if not content:
                break
            self._unread += content
        *lines, self._unread = self._unread.split(b"\n")
        return [json.loads(line) for line in lines]

    def _take(self, answer: dict[str, Any]) -> None:
        if "mode" in answer:
            self.mode = answer["mode"]
            if answer["why"]:
                self._lines.append(f"wandb: {answer['why']}; so this run is logged offline")
        elif "refused" in answer:
            self._ended = self._complete = True
            self._lines.append(f"wandb: {answer['refused']}; so this run is logged without it")
        elif "lost" in answer:
            self._lines.append(f"wandb: {answer['lost']}; {self.run}/metrics.jsonl has all figures")
        elif "ended" in answer:
            self._ended, self._complete = True, answer["ended"]

    def _wait_for_refusal(self) -> None:
        deadline = time.monotonic() + REFUSAL_SECONDS
        while not self.mode and time.monotonic() < deadline and self._process.poll() is None:
            time.sleep(0.02)
            for answer in self._answers():
                self._take(answer)
                reason = answer.get("refused") or answer.get("why")
                if reason:
                    self._process.kill()
                    self._process.wait()
                    raise ValueError(f"wandb online: {reason}; --set wandb.mode=offline logs without it")


def _started() -> subprocess.Popen[bytes]:
    # A mask and not handlers: it holds from the first instruction on, and for what that process starts.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_IT)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "t2f_dist.training.run.uploader"],
            bufsize=0,  # the lock of a buffer is held while a write waits, and its close would wait for that
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # wandb keeps logs of its own in RUN/wandb
            start_new_session=True,  # Ctrl-C in a terminal is meant for the training, which then ends this
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
