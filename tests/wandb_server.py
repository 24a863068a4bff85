"""A server for wandb on the loopback that answers enough of its protocol for a run, and that can misbehave."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

KEY = "c0ffee" * 6 + "c0ff"  # of 40 letters, as wandb's are

Manner = Literal["answers", "hangs", "fails", "denies"]
"""As wandb does; takes the request and says nothing; status 500; status 401."""


class WandbServer:
    """Attributes:
    manner: how it answers, from the next request on.
    rows: figures that arrived, by their line in the run's history.
    queries: names of the GraphQL operations that arrived.
    states: what the run's process last said of itself: whether it is complete, preempting, with what exit code.
    bodies: all that was sent, for a look into it.
    """

    def __init__(self) -> None:
        self.manner: Manner = "answers"
        self.rows: list[dict[str, Any]] = []
        self.queries: list[str] = []
        self.states: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """With which wandb finds it, whatever this machine is set up for."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.server.server_port}", "WANDB_API_KEY": KEY}

    def close(self) -> None:
        """Gone: connections are refused from now on."""
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        self.bodies.append(body)
        if self.manner == "fails":
            return 500, {}
        if self.manner == "denies":
            return 401, {"errors": [{"message": "user is not logged in"}]}
        if path.endswith("/file_stream"):
            content = json.loads(body)
            self.rows += [
                json.loads(row) for row in content.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            ]
            self.states.append({key: content[key] for key in ("complete", "preempting", "exitcode") if key in content})
            return 200, {"exitcode": None, "limits": {}}
        if path.endswith("/graphql"):
            return 200, {"data": self._data(json.loads(body))}
        return 200, {}

    def _data(self, asked: dict[str, Any]) -> dict[str, Any]:
        match = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        name = match[1] if match else ""
        self.queries.append(name)
        if name == "UpsertBucket":
            given = asked["variables"]
            project = {"name": given.get("project") or "t2f-dist", "entity": {"name": "somebody"}}
            bucket = {"id": "id", "name": given["name"], "displayName": given.get("displayName"), "project": project}
            bucket |= {"description": None, "config": "{}", "sweepName": None, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "CreateRunFiles":  # where to put its files
            url = self.environment["WANDB_BASE_URL"] + "/put"
            files = [{"name": file, "uploadUrl": url} for file in asked["variables"]["files"]]
            return {"createRunFiles": {"runID": "id", "uploadHeaders": [], "files": files}}
        if name == "NotifyScriptableRunAlert":
            return {"notifyScriptableRunAlert": {"success": True}}
        return {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Those that are killed leave their connections as they are."""


def _handler(web: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            while web.manner == "hangs":
                time.sleep(0.05)
            status, content = web.answer(self.path.partition("?")[0], body)
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def served() -> Iterator[WandbServer]:
    server = WandbServer()
    try:
        yield server
    finally:
        server.manner = "answers"  # whoever waits is let go
        server.close()


def nowhere() -> dict[str, str]:
    """An environment in which wandb's server is a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{taken.getsockname()[1]}", "WANDB_API_KEY": KEY}
