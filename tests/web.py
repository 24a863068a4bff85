"""A web server on loopback that counts what it is asked for, and that can misbehave."""

import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

Fault = Literal["flipped", "cut", "short", "longer", "slow", "503"]
"""A flipped byte; a connection that ends too early; fewer or more bytes, well sent; a second a file; unavailable."""

NUM_PIECES = 40


class Web:
    """Files, by their paths.

    Attributes:
        files: path -> content.
        gets: path -> number of GETs; those that were refused, too.
        faults: path -> what is wrong with the next answers, one each; then nothing is.
        always: path -> what is wrong with every answer.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.gets: Counter[str] = Counter()
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def put(self, path: str, content: bytes) -> str:
        """-> its URL."""
        self.files[path] = content
        return self.url + path

    def put_folder(self, folder: Path) -> str:
        """All files of a folder. -> the URL of the folder."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.put(f"/{folder.name}/{file.relative_to(folder).as_posix()}", file.read_bytes())
        return f"{self.url}/{folder.name}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def served() -> Iterator[Web]:
    web = Web()
    try:
        yield web
    finally:
        web.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(head=True)

        def do_GET(self) -> None:
            self._answer(head=False)

        def _answer(self, head: bool) -> None:
            path = self.path.partition("?")[0]
            content = web.files.get(path)
            with lock:
                fault = web.always.get(path)
                if not head:
                    web.gets[path] += 1
                    if fault is None and web.faults[path]:
                        fault = web.faults[path].pop(0)
            if content is None or fault == "503":
                self.send_response(503 if content is not None else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "flipped":
                middle = len(content) // 2
                content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            elif fault == "short":
                content = content[:-1]
            elif fault == "longer":
                content += content
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if head:
                return
            if fault == "cut":
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif fault == "slow":
                piece = -(-len(content) // NUM_PIECES)
                for start in range(0, len(content), piece):
                    self.wfile.write(content[start : start + piece])
                    self.wfile.flush()
                    time.sleep(1 / NUM_PIECES)
            else:
                self.wfile.write(content)

    return Handler
