"""A proxy in front of a server on the loopback that treats the first connections badly, and then lets all through."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

# reset: cut off at once. stall: taken, and never answered. busy: answered 503. cut: the answer is cut off in its midst.
Fault = Literal["reset", "stall", "busy", "cut"]

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_CUT_BYTES = 700  # of the answer that get through: its head, and a little


@dataclass
class Flaky:
    """What a proxy has done: `faults` are those to come, one a connection; `connections` counts all."""

    port: int
    faults: list[Fault]
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> Fault | None:
        with self.lock:
            self.connections += 1
            return self.faults.pop(0) if self.faults else None


@contextmanager
def flaky(target: int, faults: list[Fault]) -> Iterator[Flaky]:
    """A proxy in front of port `target` of 127.0.0.1, with one fault a connection, the first first."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    state = Flaky(listener.getsockname()[1], list(faults))
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(function, *arguments) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        threads.append(thread)
        thread.start()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed: the test is over
            open_sockets.append(client)
            start(serve, client, state.next())

    def serve(client: socket.socket, fault: Fault | None) -> None:
        with contextlib.suppress(OSError):
            if fault == "reset":
                _reset(client)
            elif fault == "stall":
                while client.recv(1 << 16):
                    pass
            elif fault == "busy":
                client.recv(1 << 16)
                client.sendall(_BUSY)
                client.shutdown(socket.SHUT_WR)
            else:
                server = socket.create_connection(("127.0.0.1", target))
                open_sockets.append(server)
                start(pump, client, server, None)
                pump(server, client, _CUT_BYTES if fault == "cut" else None)

    def pump(source: socket.socket, sink: socket.socket, most: int | None) -> None:
        sent = 0
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                if most is not None and sent + len(content) > most:
                    sink.sendall(content[: most - sent])
                    for each in (sink, source):
                        each.shutdown(socket.SHUT_RDWR)  # a close alone waits for the other pump, which still reads
                    return
                sink.sendall(content)
                sent += len(content)
            sink.shutdown(socket.SHUT_WR)

    start(accept)
    try:
        yield state
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for each in open_sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in list(threads):
            thread.join(timeout=5)


def _reset(client: socket.socket) -> None:
    """Close with RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
