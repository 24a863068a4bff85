"""A real Slurm for tests: munged, slurmctld and a slurmd for each node, on the loopback, in a folder of their own.

Nodes of one machine: each slurmd has its own name and port. Nothing of the machine's own Slurm or munge is read or
written, no port is fixed, and all that was started is gone when the block is left, ranks that a job left behind too.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
ROOT = Path(__file__).resolve().parents[1]
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL"}

# Facts that took finding out: several slurmd need %n in their paths; cred_expire is also the delay after a requeue
# (121 s by default, 6 s with 5, which is the least); without NoCtldInAddrAny slurmctld listens on all addresses;
# linuxproc needs no cgroups.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd.%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd.%n.log
PlugStackConfig={base}/plugstack.conf
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
ReturnToService=2
KillWait={kill_wait}
JobRequeue=1
FirstJobId={first_job}
MaxJobId=60000
UnkillableStepTimeout=60
SlurmdTimeout=120
MinJobAge=3600
SlurmdParameters=config_overrides
"""


def lacking() -> str | None:
    """Why there can be no Slurm here, or None."""
    absent = [
        name for name in (*DAEMONS, "munge", "sbatch", "srun", "scontrol") if shutil.which(name, path=_path()) is None
    ]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurm-wlm munge)"
    return None if os.geteuid() == 0 else "slurmd needs root"


class Slurm:
    """The commands of a running Slurm, called in the root of the repository.

    `environment` is what processes that call them themselves need; jobs take it over.
    """

    def __init__(self, base: Path, environment: dict[str, str]):
        self.base = base
        self.environment = environment

    def call(self, *command: str, timeout: float = 60, environment: Mapping[str, str] | None = None) -> str:
        """A command's standard output. Raises AssertionError, with its messages, where it fails."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def submit(self, *arguments: str, **environment: str) -> str:
        """`sbatch`; the job's number."""
        return self.call("sbatch", "--parsable", *arguments, environment=environment).strip()

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of it, such as JobState and Restarts."""
        shown = self.call("scontrol", "-o", "show", "job", job)
        return {key: value for key, _, value in (item.partition("=") for item in shown.split())}

    def wait(self, job: str, *states: str, timeout: float = 240) -> dict[str, str]:
        """Until the job is in one of the states (default: has ended); what Slurm says of it then."""
        wanted = set(states) or ENDED
        deadline = time.monotonic() + timeout
        while (shown := self.job(job))["JobState"] not in wanted:
            assert time.monotonic() < deadline, f"job {job} is {shown['JobState']} after {timeout} s, not {wanted}"
            time.sleep(0.1)
        return shown

    def processes(self) -> list[int]:
        """Processes that a job started, wherever they stand now: they have our configuration in their environment."""
        return [pid for pid in _all() if self._environment(pid) >= {self._mark, b"SLURM_JOB_NODELIST"}]

    def ranks(self) -> list[int]:
        """Processes of jobs that are ranks, not their launchers."""
        return [pid for pid in self.processes() if {b"TORCHELASTIC_RUN_ID", b"RANK"} <= self._environment(pid)]

    def logs(self) -> str:
        texts = {path.name: path.read_text(errors="replace") for path in sorted((self.base / "log").glob("*.log"))}
        return "".join(f"\n--- {name}\n{text[-2000:]}" for name, text in texts.items())

    @property
    def _mark(self) -> bytes:
        return f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()

    def _environment(self, pid: int) -> set[bytes]:
        """Names of the variables of a process, and our mark where it has it."""
        try:
            items = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
        except OSError:
            return set()
        return {item.partition(b"=")[0] for item in items} | ({self._mark} & set(items))

    def _any(self) -> list[int]:
        return [pid for pid in _all() if self._mark in self._environment(pid)]


@contextmanager
def cluster(nodes: int = 2, cpus: int = 4, kill_wait: int = 30) -> Iterator[Slurm]:
    """A Slurm of so many nodes n1, n2, ... that are idle when the block begins.

    kill_wait: seconds from SIGTERM to SIGKILL. Raises AssertionError, with the logs, where it does not come up.
    """
    base = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path holds 107 characters
    environment = os.environ | {
        "SLURM_CONF": str(base / "slurm.conf"),
        "PATH": f"{Path(sys.executable).parent}:{_path()}",
    }
    slurm = Slurm(base, environment)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        stack.callback(_kill_leftovers, slurm)
        base.chmod(0o755)
        for folder in ("munge", "run", "log", "state"):
            (base / folder).mkdir()
        (base / "plugstack.conf").touch()
        (base / "slurm.conf").write_text(_configuration(base, nodes, cpus, kill_wait))
        _munged(base, environment, stack)
        daemons: list[tuple[str, ...]] = [("slurmctld", "-D", "-c", "-f", environment["SLURM_CONF"])]
        daemons += [("slurmd", "-D", "-N", f"n{i + 1}", "-f", environment["SLURM_CONF"]) for i in range(nodes)]
        for line in daemons:
            _start(line, base, environment, stack)
        stack.callback(_cancel_all, slurm)
        _until(lambda: _idle(slurm) == nodes, 60, "idle nodes", slurm)
        yield slurm


def _configuration(base: Path, nodes: int, cpus: int, kill_wait: int) -> str:
    host = socket.gethostname().split(".")[0]
    ports = _free_ports(nodes + 1)
    # Jobs derive the port of their ranks from their number: two of these clusters must not count alike.
    text = CONFIGURATION.format(
        base=base, host=host, port=ports[0], kill_wait=kill_wait, first_job=random.randrange(100, 50_000)
    )
    for i in range(nodes):
        (base / f"spool.n{i + 1}").mkdir()
        text += (
            f"NodeName=n{i + 1} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i + 1]} CPUs={cpus}"
            " RealMemory=4000 State=UNKNOWN\n"
        )
    return text + "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO\n"


def _munged(base: Path, environment: dict[str, str], stack: ExitStack) -> None:
    """The daemon that signs Slurm's messages, with a key of its own."""
    folder = base / "munge"
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_bytes(os.urandom(1024))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    line = ("munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items()))
    _start(line, base, environment, stack)
    _until((folder / "socket").exists, 30, "munge's socket")


def _start(line: tuple[str, ...], base: Path, environment: dict[str, str], stack: ExitStack) -> None:
    """A daemon in the foreground, ended with the block, and by the kernel where this process is killed."""
    if shutil.which("setpriv"):
        line = ("setpriv", "--pdeathsig", "TERM", *line)
    with open(base / "log" / "daemons.log", "a") as log:
        process = subprocess.Popen(line, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    stack.callback(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cancel_all(slurm: Slurm) -> None:
    with suppress(AssertionError, subprocess.TimeoutExpired):
        slurm.call("scancel", "--user=root", timeout=20)
        _until(lambda: not slurm.call("squeue", "-h", timeout=20).strip(), 45, "an empty queue")


def _kill_leftovers(slurm: Slurm) -> None:
    """What outlived its job, such as the ranks of a launcher that was killed."""
    for _ in range(20):
        left = slurm._any()
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _idle(slurm: Slurm) -> int:
    done = subprocess.run(
        ["sinfo", "-h", "-N", "-t", "idle", "-o", "%N"],
        env=slurm.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return len(set(done.stdout.split()))


def _until(condition, seconds: float, what: str, slurm: Slurm | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s{slurm.logs() if slurm else ''}"
        time.sleep(0.05)


def _free_ports(num: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
