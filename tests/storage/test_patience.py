"""What passes is waited for, what does not is told at once; each within a bound, in one line, without a secret."""

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2f_dist.storage import patience, remote
from t2f_dist.storage.folder import Folder, Patience
from tests import s3
from tests.flaky import Fault, flaky
from tests.storage.silent import silent

CONTENT = bytes(range(256)) * 40
BOUND_SECONDS = s3.QUICK.tries * (s3.QUICK.connect_seconds + s3.QUICK.read_seconds) + 2


@pytest.fixture
def stored(bucket: str) -> str:
    Folder(bucket).write("a/x", CONTENT)
    return bucket


@pytest.mark.parametrize("fault", ["reset", "stall", "busy", "cut"])
def test_a_file_comes_through_a_bad_network(
    fault: Fault, stored: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with flaky(s3_server.port, [fault] * 2) as proxy:
        s3_server.behind(proxy.port).into(monkeypatch)
        folder = Folder(stored, s3.QUICK)
        folder.fetch("a/x", tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == CONTENT
        assert proxy.faults == [] and proxy.connections > 2


@pytest.mark.parametrize("fault", ["reset", pytest.param("stall", marks=pytest.mark.slow), "busy"])
def test_a_file_goes_through_a_bad_network(
    fault: Fault, stored: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with flaky(s3_server.port, [fault] * 2) as proxy:
        s3_server.behind(proxy.port).into(monkeypatch)
        folder = Folder(stored, s3.QUICK)
        folder.write("a/y", CONTENT)
        assert proxy.faults == []
        assert [entry.name for entry in folder.list()] == ["a/x", "a/y"]
        assert folder.read("a/y") == CONTENT


@pytest.mark.parametrize("fault", ["reset", "stall", "busy"])
def test_a_network_that_stays_bad_is_told_within_the_bound(
    fault: Fault, stored: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with flaky(s3_server.port, [fault] * 100) as proxy:
        s3_server.behind(proxy.port).into(monkeypatch)
        started = time.monotonic()
        with pytest.raises(OSError) as caught:
            Folder(stored, s3.QUICK).fetch("a/x", tmp_path / "x")
        assert time.monotonic() - started < BOUND_SECONDS
        # aiohttp asks twice where a connection breaks; botocore and s3fs would multiply that by five each.
        assert s3.QUICK.tries <= proxy.connections <= s3.QUICK.tries * 2
    message = str(caught.value)
    assert f"{stored}/a/x" in message and f"{s3.QUICK.tries} tries" in message and "\n" not in message
    assert list(tmp_path.iterdir()) == [], "nothing half is left"


def test_a_server_that_is_away_is_told_within_the_bound(stored: str, monkeypatch: pytest.MonkeyPatch):
    s3.Server(1, None).into(monkeypatch)
    with pytest.raises(OSError, match="4 tries"):
        Folder(stored, s3.QUICK).read("a/x")


def test_a_failed_upload_leaves_what_was_there(
    stored: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "large").write_bytes(bytes(20 << 20))  # of several parts
    with flaky(s3_server.port, ["cut"] * 100) as proxy:
        s3_server.behind(proxy.port).into(monkeypatch)
        # What is cut is the answer after 700 bytes, so requests get through: the parts arrive, and the end may not.
        monkeypatch.setattr("tests.flaky._CUT_BYTES", 20)
        with pytest.raises(OSError):
            Folder(stored, s3.QUICK).store(tmp_path / "large", "a/x")
    s3_server.into(monkeypatch)
    assert Folder(stored, s3.QUICK).read("a/x") in (CONTENT, bytes(20 << 20)), "the old or the new, whole"


@pytest.mark.parametrize("secret", ["wrong", ""])
def test_a_wrong_secret_is_told_at_once(
    secret: str, stored: str, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with flaky(s3_server.port, []) as proxy:
        s3_server.behind(proxy.port).into(monkeypatch, secret)
        if not secret:
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        folder = Folder(stored, Patience(wait_seconds=30))  # one wait would be noticed
        for action in (
            folder.list,
            lambda: folder.read("a/x"),
            lambda: folder.size("a/x"),
            lambda: folder.write("a/x", b""),
            lambda: folder.fetch("a/x", tmp_path / "x"),
        ):
            with pytest.raises(PermissionError) as caught:
                action()
            message = str(caught.value)
            assert stored in message and "AWS_ACCESS_KEY_ID" in message and "\n" not in message
            assert s3.KEY not in message and s3.SECRET not in message


def test_what_is_missing_is_told_at_once(bucket: str):
    folder = Folder(bucket, Patience(wait_seconds=30))
    for action in (lambda: folder.read("none"), lambda: Folder(bucket + "x", folder.patience).read("x")):
        with pytest.raises(FileNotFoundError) as caught:
            action()
        assert "\n" not in str(caught.value)


# The web.


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a b#c%20ü.bin").write_bytes(CONTENT)
    (folder / "empty").touch()
    return folder


@pytest.fixture(params=["ranges", "whole"])
def server(request: pytest.FixtureRequest, files: Path) -> Iterator[str]:
    """The URL of a web server that knows ranges, and of one that does not."""
    if request.param == "ranges":
        with s3.web(files) as place:
            yield place
        return

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object):
            super().__init__(*arguments, directory=str(files))  # pyright: ignore[reportArgumentType]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_web_server_is_read(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = Folder(server, s3.QUICK)
    name = "a b#c%20ü.bin"
    assert folder.read(name) == CONTENT
    assert folder.read(name, 100, 50) == CONTENT[100:150]
    assert folder.read(name, 10_000) == CONTENT[10_000:]
    assert folder.read(name, len(CONTENT), 5) == b""
    assert folder.read("empty") == b""
    assert folder.size(name) == len(CONTENT)
    assert folder.size("none") is None
    folder.fetch(name, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    with pytest.raises(FileNotFoundError):
        folder.read("none")
    with pytest.raises(FileNotFoundError):
        folder.fetch("none", tmp_path / "y")
    with pytest.raises(ValueError, match="cannot be listed"):
        folder.list()
    for action in (lambda: folder.write("x", b""), lambda: folder.delete(name), folder.make):
        with pytest.raises(ValueError, match="only read"):
            action()


@pytest.mark.parametrize("fault", ["reset", pytest.param("stall", marks=pytest.mark.slow), "busy", "cut"])
def test_a_web_server_behind_a_bad_network(fault: Fault, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    name = "a b#c%20ü.bin"
    with s3.web(files) as place:
        port = int(place.rpartition(":")[2])
        with flaky(port, [fault] * 2) as proxy:
            folder = Folder(f"http://user:secret@127.0.0.1:{proxy.port}?token=secret", s3.QUICK)
            folder.fetch(name, tmp_path / "x")
            assert (tmp_path / "x").read_bytes() == CONTENT
        with flaky(port, [fault] * 100) as proxy:
            folder = Folder(f"http://user:secret@127.0.0.1:{proxy.port}?token=secret", s3.QUICK)
            actions = [lambda: folder.read(name), lambda: folder.fetch(name, tmp_path / "y")]
            for action in [*actions, lambda: folder.size(name)] if fault != "cut" else actions:  # a head is not cut
                with pytest.raises(OSError) as caught:
                    action()
                assert "4 tries" in str(caught.value) and "secret" not in str(caught.value)


def test_a_server_that_sends_byte_by_byte_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each byte comes in time, and the whole file never."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hasty = Patience(2, 0.02, connect_seconds=0.2, read_seconds=0.3, slowest_bytes_per_second=1000, unknown_bytes=100)
    with silent(bytes(1000), seconds_a_byte=0.1) as place:
        for action in (
            lambda: Folder(place, hasty).read("x"),
            lambda: Folder(place, hasty).read("x", bytes_max=100),
            lambda: Folder(place, hasty).fetch("x", tmp_path / "x"),
        ):
            started = time.monotonic()
            with pytest.raises(OSError, match="given up after 2 tries"):
                action()
            assert time.monotonic() - started < 2 * hasty.seconds(100) + 2
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_read_than_is_allowed(server: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "x").write_bytes(CONTENT)
    names = {server: "a b#c%20ü.bin", stored: "a/x", str(tmp_path): "x"}
    for place, name in names.items():
        folder = Folder(place, s3.QUICK)
        assert folder.read(name, bytes_max=len(CONTENT)) == CONTENT
        assert folder.read(name, 100, 50, bytes_max=50) == CONTENT[100:150]
        for given in ({}, {"length": 500}, {"start": 1}):
            with pytest.raises(ValueError, match="more than 499 bytes"):
                folder.read(name, **given, bytes_max=499)


class Slow:
    """A filesystem of fsspec without a way to give a call up, as that of the Hub."""

    def info(self, seconds: float) -> str:
        time.sleep(seconds)
        if not seconds:
            raise KeyError("none")
        return "found"


def test_a_call_that_cannot_be_given_up_is_left_alone():
    assert remote._timed(Slow(), "info", 5.0, 0.01) == "found"
    with pytest.raises(KeyError):
        remote._timed(Slow(), "info", 5.0, 0)
    with pytest.raises(TimeoutError, match="no answer"):
        remote._timed(Slow(), "info", 0.05, 2.0)


def test_a_commit_that_another_came_before_is_made_again():
    class Refused(Exception):
        def __init__(self, status: int):
            self.status = status

    answers: list[Exception | str] = [Refused(409), Refused(412), "done"]

    def commit() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patience.call("hf://datasets/u/name/x", s3.QUICK, commit) == "done"
    answers += [Refused(412), "done"]
    with pytest.raises(patience.Unreachable):
        patience.call("s3://bucket/x", s3.QUICK, commit)


HUB = """
from t2f_dist.storage.folder import Folder
from tests.s3 import QUICK
try:
    Folder("hf://datasets/user/name", QUICK).read("x")
except OSError as error:
    print(error)
"""


def test_a_hub_that_is_away_is_told_in_one_line():
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_secret"}
    done = subprocess.run([sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("hf://datasets/user/name/x: given up after 4 tries: ")
    assert done.stdout.count("\n") == 1 and "hf_secret" not in done.stdout


# Processes.


def test_a_folder_works_after_a_fork_and_in_the_parent_still(stored: str):
    folder = Folder(stored, s3.QUICK)
    assert folder.read("a/x") == CONTENT
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"1" if folder.read("a/x", 5, 7) == CONTENT[5:12] else b"0")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert stream.read() == b"1"
    os.waitpid(child, 0)
    assert folder.read("a/x") == CONTENT


def test_a_scheme_whose_library_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(remote._NEEDS, "gs", ("no_such_library", "gcs"))
    with pytest.raises(ValueError, match=r"pip install 't2f-dist\[gcs\]'"):
        Folder("gs://bucket/x").read("y")
