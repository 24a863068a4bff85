"""Several hosts on this machine: network namespaces on a switch of their own, with names, and cables to pull.

    with hosts(2) as (first, second):
        process = first.start(["accelerate", "launch", ...], log=path)
        first.cut()

A host has one interface `eth0`, and is set up as Debian sets up a machine: its own name leads to 127.0.1.1, the others'
names to their addresses. Nothing leaves the namespaces, several sets may be up at once, and all processes in them are
gone with the block. A set whose process was killed is removed by the next.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PREFIX = "t2f-hosts"
NETWORK = "10.77.0"
PROGRAMS = ("ip", "nsenter", "unshare", "mount", "hostname")
# In a mount and a UTS namespace of its own; it becomes the command itself, so that its number is the command's.
ENTER = 'mount --bind "$0" /etc/hosts && hostname "$1" && shift && exec "$@"'


class Host:
    """One of the hosts. `address` is reached from the others; `name` too, but at home leads to 127.0.1.1."""

    def __init__(self, number: int, namespace: str, switch: str, names: Path):
        self.name = f"host{number}"
        self.address = f"{NETWORK}.{number + 1}"
        self.namespace = namespace
        self._switch, self._port, self._names = switch, f"port{number}", names
        self._started: list[subprocess.Popen[str]] = []

    def command(self, line: Sequence[str]) -> list[str]:
        """`line` as a command that runs on this host."""
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--mount", "--uts"]
        return [*enter, "sh", "-c", ENTER, str(self._names), self.name, *line]

    def start(self, line: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """Start `line` here, its output at the end of `log`."""
        with open(log, "a") as file:
            process = subprocess.Popen(
                self.command(line),
                env=dict(environment),
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def run(self, line: Sequence[str]) -> str:
        return subprocess.run(self.command(line), capture_output=True, text=True, check=True).stdout

    def cut(self) -> None:
        """Pull the cable: the host sees that it is out."""
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def heal(self) -> None:
        _ip("-n", self._switch, "link", "set", self._port, "up")

    def drop(self) -> None:
        """Lose every packet to and from here, without a sign."""
        _ip("-n", self._switch, "link", "set", self._port, "nomaster")

    def undrop(self) -> None:
        _ip("-n", self._switch, "link", "set", self._port, "master", "bridge0")

    def processes(self) -> list[int]:
        return [int(pid) for pid in _ip("netns", "pids", self.namespace).split()]

    def kill(self) -> None:
        """The host is gone: SIGKILL to everything that runs here."""
        deadline = time.monotonic() + 30
        while (alive := self.processes()) and time.monotonic() < deadline:
            for pid in alive:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for process in self._started:
            process.wait(30)


@contextmanager
def hosts(number: int) -> Iterator[tuple[Host, ...]]:
    """So many hosts on one switch. Skips the test where this machine does not let us make them."""
    _skip_without()
    _remove_leftovers()
    token = f"{PREFIX}-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    folder = Path(tempfile.mkdtemp(prefix=f"{token}-"))
    switch = f"{token}-switch"
    made = [Host(index, f"{token}-{index}", switch, folder / f"hosts-{index}") for index in range(number)]
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge0", "up")
        for index, host in enumerate(made):
            _plug(host, switch, index)
            others = [f"{other.address} {other.name}" for other in made if other is not host]
            own = ["127.0.0.1 localhost", f"127.0.1.1 {host.name}"]
            (folder / f"hosts-{index}").write_text("\n".join([*own, *others, ""]))
        yield tuple(made)
    finally:
        existing = _namespaces()
        for host in made:
            if host.namespace in existing:
                host.kill()
        for name in existing:
            if name.startswith(token):
                _ip("netns", "del", name)
        shutil.rmtree(folder, ignore_errors=True)


def _plug(host: Host, switch: str, index: int) -> None:
    port = f"port{index}"
    _ip("netns", "add", host.namespace)
    _ip("link", "add", "eth0", "netns", host.namespace, "type", "veth", "peer", "name", port, "netns", switch)
    _ip("-n", host.namespace, "link", "set", "lo", "up")
    _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", host.namespace, "link", "set", "eth0", "up")
    _ip("-n", switch, "link", "set", port, "master", "bridge0", "up")


def _skip_without() -> None:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here to make hosts with")
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    probe = f"{PREFIX}-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "del", probe)
    except RuntimeError as error:
        pytest.skip(f"no network namespaces here: {error}")


def _remove_leftovers() -> None:
    """Namespaces and folders of test processes that were killed before they could remove them."""
    for name in _namespaces():
        if _is_leftover(name):
            with suppress(RuntimeError):  # another test process was as quick
                for pid in _ip("netns", "pids", name).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                _ip("netns", "del", name)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*"):
        if _is_leftover(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _is_leftover(name: str) -> bool:
    """Whether it is named after a test process that is no more."""
    owner = name.removeprefix(f"{PREFIX}-").partition("-")[0]
    return name.startswith(f"{PREFIX}-") and owner.isdigit() and not Path("/proc", owner).exists()


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line]


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
