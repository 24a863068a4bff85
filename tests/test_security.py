"""No secret is written, nothing listens but the ranks for each other, and what strangers write is safe to open."""

import ast
import ipaddress
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2f_dist.config.load import FILE_BYTES_MAX, dump, read_yaml, resolve
from t2f_dist.config.redaction import redacted, said
from t2f_dist.config.schema import Config
from t2f_dist.models import snapshot
from t2f_dist.training import checkpoint
from tests.end_to_end.launches import children_of, launch, log_of, status_of
from tests.models.test_snapshot import _edit, contents
from tests.models.untrained import untrained
from tests.training.small import config
from tests.web import served

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "t2f_dist").rglob("*.py"))
CANARY = "CANARY"
SECRETS = {
    "WANDB_API_KEY": f"{CANARY}1" + "0" * 33,  # 40 letters, as wandb's are
    "AWS_ACCESS_KEY_ID": f"{CANARY}2",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}3",
    "AWS_SESSION_TOKEN": f"{CANARY}4",
    "HF_TOKEN": f"{CANARY}5",
}


class Listening(NamedTuple):
    pid: int
    address: str
    port: int


def tree(pid: int) -> Iterator[int]:
    yield pid
    for child in children_of(pid):
        yield from tree(child)


def listening(pid: int) -> set[Listening]:
    """The TCP sockets on which a process and all below it listen, and UDP sockets that are bound."""
    sockets: dict[str, tuple[str, int]] = {}
    for name, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state:
                address, port = fields[1].split(":")
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                sockets[fields[9]] = str(ipaddress.ip_address(b"".join(words))), int(port, 16)
    found = set()
    for each in tree(pid):
        with suppress(OSError):  # it has ended
            for descriptor in Path(f"/proc/{each}/fd").iterdir():
                with suppress(OSError):
                    match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor))
                    if match and match[1] in sockets:
                        found.add(Listening(each, *sockets[match[1]]))
    return found


class Leaky(NamedTuple):
    config: Config
    cache: Path
    sockets: set[Listening]
    launcher: int


@pytest.fixture(scope="module")
def leaky(portrait_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leaky]:
    """Two ranks that read shards at a URL full of secrets, with others in their environment; what they listened on."""
    folder = tmp_path_factory.mktemp("leaky")
    with served() as web:
        place = web.put_folder(portrait_shards)
        secret = place.replace("://", f"://user:{CANARY}6@") + f"?X-Amz-Signature={CANARY}7&token={CANARY}8"
        warm = f"https://{CANARY}9@example.invalid/run"
        run = config("house", Path(place), folder / "run", "wandb.mode=offline", f"data.cache_dir={folder}/cache")
        options = ("--set", f"data.shards={secret}", "--set", f"wandb.tags=[{warm}]")
        sockets: set[Listening] = set()
        with launch(run, 2, *options, environment=os.environ | SECRETS) as process:
            deadline = time.monotonic() + 300
            while process.poll() is None:
                assert time.monotonic() < deadline, log_of(run)
                sockets |= listening(process.pid)
                time.sleep(0.05)
        assert process.returncode == 0, log_of(run)
        yield Leaky(run, folder / "cache", sockets, process.pid)


def holding(folder: Path, word: bytes) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and word in path.read_bytes()]


@pytest.mark.slow
def test_no_secret_is_in_anything_that_a_run_writes(leaky: Leaky):
    run = Path(leaky.config.run)
    assert status_of(leaky.config)["outcome"] == "finished"
    for kind in ("config.yaml", "checkpoints/*/*.json", "snapshots/*.safetensors", "wandb/*/*.wandb", "status.json"):
        assert list(run.glob(kind)), f"no {kind}: it would be looked for in vain"
    assert holding(run, CANARY.encode()) == []
    assert holding(leaky.cache, CANARY.encode()) == []
    assert CANARY not in log_of(leaky.config)
    assert holding(run, b"redacted"), "it was there to be taken out"


@pytest.mark.slow
def test_what_was_written_without_its_secret_is_refused_with_a_remedy(leaky: Leaky, tmp_path: Path):
    path = Path(leaky.config.run) / "config.yaml"
    line = [sys.executable, "-m", "t2f_dist.train", "--config", str(path), "--run", str(tmp_path / "run")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert "was written down without its password or query: name the whole URL again" in error


@pytest.mark.slow
def test_nothing_listens_but_the_ranks_for_each_other(leaky: Leaky):
    """The store of the rendezvous, of torch, listens on all interfaces; gloo's pairs on the host's own address."""
    own = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    for family, *_, address in socket.getaddrinfo(socket.gethostname(), None):
        assert family in (socket.AF_INET, socket.AF_INET6)
        own |= {str(address[0]), f"::ffff:{address[0]}"}
    assert leaky.sockets, "a launch of two ranks has a store"
    wide = {each for each in leaky.sockets if ipaddress.ip_address(each.address).is_unspecified}
    stores = {each.port for each in wide}
    assert len(stores) <= 2, f"more than the launcher's store and the ranks': {wide}"
    assert {each.address for each in leaky.sockets - wide} <= own, leaky.sockets


def test_a_plan_and_a_refusal_hold_no_secret(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(dump(config("house", Path("x"), tmp_path / "run")))
    train = [sys.executable, "-m", "t2f_dist.train", "--config", str(path), "--set"]
    url = f"data.shards=https://user:{CANARY}@127.0.0.1:9/x?token={CANARY}"
    plan = subprocess.run([*train, url, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "https://redacted@127.0.0.1:9/x?redacted" in plan.stdout
    key = subprocess.run([*train, f"wandb.api_key={CANARY}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert key.returncode == 1 and "unknown key wandb.api_key" in key.stderr
    assert CANARY not in plan.stdout + plan.stderr + key.stdout + key.stderr


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://u:CANARY@h/x?a=CANARY#CANARY", "https://redacted@h/x?redacted"),
        ("no such file: http://h/x?CANARY, tried 3 times", "no such file: http://h/x?redacted tried 3 times"),
        ("s3://CANARY:CANARY@bucket/x", "s3://redacted@bucket/x"),
        ("s3://bucket/what?#.tar", "s3://bucket/what?#.tar"),
        ("hf://datasets/u/r@main/x", "hf://datasets/u/r@main/x"),
        ("/home/a@b/x?y", "/home/a@b/x?y"),
        ("--set wandb.api_key=CANARY", "--set wandb.api_key=redacted"),
        ("AWS_SECRET_ACCESS_KEY: 'CANARY x'", "AWS_SECRET_ACCESS_KEY: redacted"),
        ("x.password = CANARY;", "x.password = redacted;"),
        ("data.max_words=3 keys: a, b", "data.max_words=3 keys: a, b"),
    ],
)
def test_secrets_are_taken_out_of_a_message(text: str, kept: str):
    assert said(text) == kept
    assert said(said(text)) == kept


@given(st.text(st.sampled_from("aB0:/@?#=&.-_% {},'\""), max_size=40), st.sampled_from(["http", "https", "HTTPS"]))
def test_no_query_and_no_user_survives(rest: str, scheme: str):
    host = re.sub(r"[\s/?#@'\"]", "", rest) or "h"
    url = f"{scheme}://user:{CANARY}@{host}/x?{CANARY}"
    assert CANARY not in json.dumps(redacted({"a": [url, {"b": f"{rest} {url}"}]}))


# ------------------------------------------------------------------------------------------------------------ strangers


def bomb(kind: str) -> str:
    def level(number: int) -> str:
        inner = ",".join([f"*a{number - 1}"] * 9)
        return f"a{number}: &a{number} " + (f"{{<<: [{inner}]}}" if kind == "merges" else f"[{inner}]")

    first = "a0: &a0 {x: 1}" if kind == "merges" else "a0: &a0 [x,x,x,x]"
    return "\n".join([first, *map(level, range(1, 15))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb("aliases"), "more than 50,000 values"),
        (bomb("merges"), "more than 50,000 values"),
        ("a: &x [*x]", "more than 50,000 values"),
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        ("- " * 5000, "nested too deeply"),
        ("a: " + "9" * 100_000, "a number of 100,000 characters"),
        ("a: " + "1:" * 50_000 + "1", "a number of 100,001 characters"),
        ("a: x" + "x" * FILE_BYTES_MAX, "longer than 262,144 bytes"),
        ("!!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("a: !!timestamp x", "not readable as YAML"),
        ("? {a: 1}\n: 2", "not readable as YAML"),
        ("a: !!omap 3", "expected a sequence"),
        ("\0", "not readable as YAML"),
    ],
    ids=lambda value: value[:12],
)
def test_a_hostile_configuration_costs_little_and_is_one_line(text: str, message: str, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=message) as raised:
        resolve(Config, read_yaml(path))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 2000
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "in KiB: a quarter of a gigabyte"


def test_a_file_without_end_is_no_configuration():
    with pytest.raises(ValueError, match="longer than"):
        read_yaml("/dev/zero")


HOSTILE = st.sampled_from(
    [-1, 0, 10**6, 10**9, 2**63, 2**70, 1e308, float("nan"), float("inf"), None, True, "", [], {}, "x" * 10_000]
    + [[1] * 10_000, {"kind": "progan"}, [[[]]], "../../etc/passwd", "pipe:ls", "\x1b[2J"]
)


def places(value: object, place: tuple = ()) -> Iterator[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from places(inner, (*place, key))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("snapshots")
    found = {recipe: folder / f"{recipe}.safetensors" for recipe in ("house", "both", "wav2pix", "identity")}
    for recipe, path in found.items():
        snapshot.save(path, untrained(recipe=recipe))
    return found


@settings(max_examples=30)
@given(data=st.data())
def test_any_value_in_a_snapshot_is_refused_or_loads(known: dict[str, Path], data: st.DataObject):
    original = data.draw(st.sampled_from(sorted(known.values())))
    which = data.draw(st.sampled_from(["config", "config", "facts", "corpus"]))
    content = json.loads(contents(original)[1][which])
    place = data.draw(st.sampled_from(sorted(places(content), key=str)))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = data.draw(HOSTILE)
    changed = original.with_name("changed.safetensors")
    changed.write_bytes(original.read_bytes())
    _edit(changed, **{which: json.dumps(content)})
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    message = ""
    try:
        snapshot.load(changed)
    except ValueError as error:
        message = str(error)
    assert "\n" not in message and len(message) < 3000
    assert time.process_time() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "in KiB: half a gigabyte"


def raw(path: Path, header: object, length: int | None = None, data: bytes = b"") -> Path:
    """A safetensors file whose header is as given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [float("nan")], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}},
        {"w": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 4]}},
        {
            "v": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        b"[" * 100_000,
        b"\xff\xfe\x00",
        {"__metadata__": {"format": snapshot.FORMAT, "version": str(snapshot.VERSION)}},
    ],
    ids=range(10),
)
def test_a_header_that_lies_is_refused(header: object, tmp_path: Path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as raised:
        snapshot.load(raw(tmp_path / "x.safetensors", header, data=b"\0" * 4))
    assert "\n" not in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        file.write((snapshot.HEADER_BYTES_MAX + 8).to_bytes(8, "little"))
        file.truncate(snapshot.HEADER_BYTES_MAX + 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="a header of 33,554,440 bytes"):
        snapshot.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**14


def test_a_configuration_nested_in_a_snapshot_without_end_is_refused(known: dict[str, Path], tmp_path: Path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(known["house"].read_bytes())
    for depth in (400, 900, 100_000):
        _edit(path, config='{"a":' * depth + "1" + "}" * depth)
        with pytest.raises(ValueError):
            snapshot.load(path)


# --------------------------------------------------------------------------------------------------------------- source


def unsafe(source: str) -> list[str]:
    """What runs what it reads, or passes through a shell, beside what tests/test_architecture.py finds."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called.startswith("yaml.") and called.endswith(("load", "load_all")):
            loader = arguments.get("Loader", ast.unparse(node.args[1]) if len(node.args) > 1 else "")
            if called not in ("yaml.safe_load", "yaml.load") or (called == "yaml.load" and loader != "_Loader"):
                faults.append(f"line {node.lineno}: {called} with Loader {loader or 'none'}")
        if called in {"tempfile.mktemp", "os.popen", "os.tempnam", "torch.hub.load", "compile", "importlib.reload"}:
            faults.append(f"line {node.lineno}: {called}(...)")
        if called.startswith(("os.spawn", "os.exec", "pty.")):
            faults.append(f"line {node.lineno}: {called}(...)")
        ours = ast.List | ast.Tuple | ast.Name | ast.Starred
        if called.partition(".")[0] == "subprocess" and node.args and not isinstance(node.args[0], ours):
            faults.append(f"line {node.lineno}: {called} of something else than a list")
        if arguments.get("trust_remote_code") == "True" or arguments.get("weights_only") == "False":
            faults.append(f"line {node.lineno}: {called} runs what it reads")
        texts = [
            part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
        ]
        faults += [f"line {node.lineno}: {text!r}" for text in texts if text.startswith("pipe:") or text == "0.0.0.0"]
    return faults


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source_runs_nothing_that_it_reads(path: Path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


def test_wandb_is_imported_by_the_uploader_alone():
    importing = [path.name for path in SOURCES if re.search(r"^\s*(import|from) wandb", path.read_text(), re.MULTILINE)]
    assert importing == ["uploader.py"]


@pytest.mark.parametrize(
    "source",
    [
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load(text)",
        "tempfile.mktemp()",
        "os.popen('ls')",
        "subprocess.run('ls -l')",
        "subprocess.run(f'ls {path}')",
        "subprocess.Popen('ls ' + path)",
        "os.execvp('ls', [])",
        "open_url('pipe:ls')",
        "socket.bind(('0.0.0.0', 1))",
        "Model(path, trust_remote_code=True)",
    ],
)
def test_what_is_unsafe_is_found(source: str):
    assert len(unsafe(source)) == 1


def test_what_is_safe_is_let_through():
    assert unsafe("yaml.load(t, Loader=_Loader)\nyaml.safe_load(t)\nsubprocess.run([a, b])\nre.compile('x')") == []


@pytest.mark.slow
def test_the_state_of_a_checkpoint_is_json_and_tensors_alone(leaky: Leaky):
    folder = checkpoint.found(Path(leaky.config.run) / "checkpoints")[0]
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors"}
