"""Real servers on the loopback: stores that speak S3, and a web server; each a process that dies with the test.

rclone is up in a moment and keeps the files in a folder, where a test may look at them. SeaweedFS takes seconds and is
the nearer to a store of many machines: its own multipart uploads, listings and signatures.
"""

import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from t2f_dist.storage import remote
from t2f_dist.storage.folder import Folder, Patience

KEY, SECRET = "t2f-test-key", "t2f-test-secret"
QUICK = Patience(tries=4, wait_seconds=0.02, connect_seconds=1.0, read_seconds=0.5, slowest_bytes_per_second=10 << 20)
_UP_SECONDS = 30


@dataclass(frozen=True)
class Server:
    """An S3 server on 127.0.0.1.

    Attributes:
        port: where it listens, or where a proxy in front of it does.
        root: the folder in which rclone keeps a folder a bucket; None of SeaweedFS.
    """

    port: int
    root: Path | None

    def behind(self, port: int) -> "Server":
        return replace(self, port=port)

    def into(self, environment: pytest.MonkeyPatch, secret: str = SECRET) -> None:
        """Make it the S3 of this process and its children."""
        environment.setenv("AWS_ACCESS_KEY_ID", KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", secret)
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{self.port}")
        for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"):
            environment.delenv(name, raising=False)
        environment.setenv("AWS_CONFIG_FILE", os.devnull)
        environment.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        environment.setenv("NO_PROXY", "127.0.0.1")

    def make(self, bucket: str) -> str:
        """A new bucket, of the server that the environment names; its URL."""
        remote.filesystem(f"s3://{bucket}", QUICK).call_s3("create_bucket", Bucket=bucket)
        return f"s3://{bucket}"


def put(folder: Path, place: str) -> None:
    """Put all files of a local folder below a URL."""
    there = Folder(place)
    for entry in Folder(folder).list():
        there.store(folder / entry.name, entry.name)


def program(name: str) -> str:
    """The path of a server's program, as its package puts it beside Python."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert found is not None, f"{name} is not installed: make install"
    return found


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """rclone's S3 server over a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = _free_ports(1)
    options = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", "--no-cleanup"]
    with _running([program("rclone"), "serve", "s3", "--config", os.devnull, *options, str(folder)], folder, port):
        yield Server(port, folder)


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """rclone's web server over a folder, which knows ranges; its URL."""
    (port,) = _free_ports(1)
    options = ["--addr", f"127.0.0.1:{port}", "--read-only"]
    with _running([program("rclone"), "serve", "http", "--config", os.devnull, *options, str(folder)], folder, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def seaweed(folder: Path) -> Iterator[Server]:
    """SeaweedFS: a master, a volume server, a filer and an S3 gateway in one process."""
    folder.mkdir(parents=True, exist_ok=True)
    users = [{"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": users}))
    names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
    names += ["s3.port.grpc", "s3.port"]
    ports = _free_ports(len(names))
    options = [f"-{name}={port}" for name, port in zip(names, ports)] + ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    options += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={folder / 's3.json'}"]
    options += ["-master.volumeSizeLimitMB=64", "-volume.max=50", f"-dir={folder}"]
    with _running([program("weed"), "-logtostderr", "server", *options], folder, ports[-1]):
        yield Server(ports[-1], None)


@contextmanager
def _running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    libc = ctypes.CDLL(None)

    def die_with_us() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    log = folder.with_name(folder.name + ".log")
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=folder.parent, preexec_fn=die_with_us)
    try:
        until = time.monotonic() + _UP_SECONDS
        while not _answers(port):
            assert process.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < until, f"{command[0]} is not up: {log.read_text()[-2000:]}"
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()


def _free_ports(number: int) -> list[int]:
    """Ports that nothing listens on now, all different."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
