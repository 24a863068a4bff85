"""The process that talks to wandb, and the only module that knows it: tracker.py starts and feeds it.

A process and not a thread: whatever wandb does (a server that hangs, a service that dies, hooks at the interpreter's
end), it can be killed, and a loader process that is forked meanwhile inherits none of its locks. It reads a JSON line a
message from its standard input, and answers in JSON lines:

    {"mode": ..., "why": ...}      once it has begun; why it is not the mode that was asked for, else null
    {"refused": ...}               instead, where `online` was asked for and wandb says no
    {"lost": ...}                  when wandb's service has died, once: what may be missing
    {"ended": true}                all is written and, if online, uploaded; false: not all, or not all in time

Signals that a job gets as a whole are blocked in it by the tracker. wandb's service unblocks some of them, and may be
killed besides: then it is begun again, under the run's id.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

# Before wandb is imported: it would report its own errors to its maker's servers, also of runs that are kept offline.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

from t2f_dist.config.redaction import said

INIT_SECONDS = 15.0  # for an answer by the server, then the run is kept offline; or WANDB_INIT_TIMEOUT
UPLOAD_SECONDS = 15.0  # after the end, for what is not uploaded yet
BEGUN_AGAIN_MAX = 10  # times in a launch


def main() -> None:
    # Nothing that wandb prints may stand between the lines of the protocol, and none of its processes may hold an end.
    messages, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    asked = json.loads(messages.readline())
    run, mode, why = _begun(asked)
    if run is None:
        answer(refused=why)
        return
    answer(mode=mode, why=why)
    whole, deaths = True, 0
    for line in messages:
        message = json.loads(line)
        kind = message.pop("kind")
        if kind == "end":
            answer(ended=_ended(run, message["exit_code"]) and whole)
            return
        try:
            whole &= _passed_on(run, kind, message)
        except ConnectionError:  # wandb's service is gone, by a signal or for want of memory
            whole, deaths = False, deaths + 1
            if deaths == 1:
                answer(lost="its service has died and is begun again, so the figures of some moments may be missing")
            if deaths <= BEGUN_AGAIN_MAX:
                run = _begun_again(asked, mode) or run
                with suppress(ConnectionError):
                    _passed_on(run, kind, message)


def _end_with(parent: int) -> None:
    """Leave when the training process has: it cannot say so where it is killed, and pipes may have other holders."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _begun(asked: dict[str, Any]) -> tuple[Any, str, str | None]:
    """(the run, its mode, why that is not the mode asked for); no run where `online` is asked for and refused."""
    mode, why = asked["mode"], None
    if mode == "auto":
        try:
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
            if mode == "offline":
                why = "no key found (wandb login, or WANDB_API_KEY, changes it)"
        except wandb.Error as error:  # such as a key of a wrong length
            mode, why = "offline", said(error)
    try:
        return _init(asked, mode), mode, why
    except Exception as error:
        why = said(error)
        if mode == "offline" and not isinstance(error, ConnectionError):
            return None, mode, why
    run = _begun_again(asked, "offline")  # the service held the run's id, or is dead
    return run, "offline" if run else mode, why if mode != "offline" or run is None else None


def _begun_again(asked: dict[str, Any], mode: str) -> Any:
    """The run, by a new service; None where that does not work."""
    with suppress(Exception):  # it says that the old one is gone
        wandb.teardown()
    try:
        return _init(asked, mode)
    except Exception:
        return None


def _init(asked: dict[str, Any], mode: str) -> Any:
    run = wandb.init(
        **asked["run"],
        resume="allow" if mode == "online" else None,  # offline, wandb cannot resume; the same id joins the parts
        mode=mode,  # pyright: ignore[reportArgumentType]
        settings=wandb.Settings(
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
            finish_timeout=UPLOAD_SECONDS,
            finish_timeout_raises=True,
            silent=True,
            console="off",
            disable_code=True,  # nor a difference to the last commit: it may hold what nobody meant to publish
            disable_git=True,  # nor the URL of a remote, which may hold a token
            x_disable_meta=True,  # nor the paths, the command line and the versions of this machine
            x_save_requirements=False,  # nor what is installed on it
            x_stats_pid=os.getppid(),
        ),
    )
    # Time is images, and no `step` is given: after a resume, replayed images would be dropped as steps of the past.
    run.define_metric("images")
    run.define_metric("*", step_metric="images")
    return run


def _passed_on(run: Any, kind: str, message: dict[str, Any]) -> bool:
    """One message; whether wandb took it. What it cannot take is lost to it alone: the run's folder has it.

    Raises ConnectionError where its service is gone.
    """
    try:
        if kind == "figures":
            run.log(message["figures"])
        elif kind == "grid":
            grid = wandb.Image(message["path"], caption=message["caption"])
            run.log({"images": message["images"], "grid": grid})
        elif kind == "alert":
            run.alert(message["title"], message["text"], level=message["level"])
        elif kind == "preempting":
            run.mark_preempting()
    except ConnectionError:
        raise
    except Exception as error:
        _note(run, f"{kind}: {type(error).__name__}: {said(error)}")
        return False
    return True


def _note(run: Any, line: str) -> None:
    with open(Path(run.settings.root_dir) / "wandb" / "lost.txt", "a", encoding="utf-8") as file:
        file.write(line + "\n")


def _ended(run: Any, exit_code: int) -> bool:
    """Whether all is written, and uploaded where it is online."""
    try:
        run.finish(exit_code=exit_code)
        wandb.teardown(exit_code=exit_code)
    except Exception:  # not in time; or its service is gone
        return False
    return True


if __name__ == "__main__":
    main()
