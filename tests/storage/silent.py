"""A web server that does not say how long its answers are, and may take its time over them."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@contextmanager
def silent(content: bytes, seconds_a_byte: float = 0.0) -> Iterator[str]:
    """Its URL; every name there is a file of this content, sent at once or byte by byte."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            with contextlib.suppress(OSError):
                if not seconds_a_byte:
                    self.wfile.write(content)
                    return
                for place in range(len(content)):
                    self.wfile.write(content[place : place + 1])
                    time.sleep(seconds_a_byte)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
