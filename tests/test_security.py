"""What strangers write is safe to open, and the source never runs what it reads."""

import ast
import json
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2f_dist.config.load import FILE_BYTES_MAX, read_yaml, resolve
from t2f_dist.config.schema import Config
from t2f_dist.models import snapshot
from tests.models.test_snapshot import _edit, contents
from tests.models.untrained import untrained

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "t2f_dist").rglob("*.py"))


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
