"""The rules of the house, held by walking the source: who imports whom, what is never written, what stays quick."""

import ast
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "t2f_dist"

# layer -> what it may import of ours, beside itself. `shard.format` is that module and nothing else of the layer.
# A voice or a caption that a person gives is cleaned like those in shards: hence `shard.encode` for the evaluation; a
# picture of a foreign tar is squared like them: `shard.picture` for the data.
MAY_IMPORT = {
    "config": set(),
    "losses": set(),
    "storage": set(),
    "text": {"config"},
    "portraits": {"config"},
    "shard": {"config", "text", "portraits", "storage"},
    "inspection": {"config", "shard.format", "shard.manifest", "shard.levels", "shard.picture", "storage", "text"},
    "models": {"config"},
    "data": {
        "config",
        "shard.format",
        "shard.manifest",
        "shard.levels",
        "shard.picture",
        "shard.tar",
        "storage",
        "text",
    },
    "training": {"config", "data", "models", "losses", "storage", "text"},
    "evaluation": {"config", "shard.format", "shard.manifest", "shard.encode", "data", "models", "text", "portraits"},
    "cli": {
        "config",
        "shard",
        "inspection",
        "storage",
        "models.snapshot",
        "evaluation",
        "portraits",
        "training.checkpoints",
    },
    "train": {"config", "training"},
}
LAUNCHED = {"accelerate", "wandb"}  # only in training/ and train.py
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
NO_NOUN = {"utils", "util", "common", "helpers", "helper", "misc"}
MAX_LINES = 400

SOURCES = sorted(PACKAGE.rglob("*.py"))
WRITTEN = [p for folder in ("t2f_dist", "tests", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]


def layer_of(path: Path) -> str:
    """The layer of a file of the package: its folder, or its own name at the top ("" for the package itself)."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import at any depth; `from a.b import c` gives a.b.c, since c may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def import_faults(source: str, layer: str) -> list[str]:
    """What the imports of a file of `layer` do against the table."""
    faults = []
    for line, name in imported(ast.parse(source)):
        top, *rest = name.split(".")
        if name.startswith("."):
            faults.append(f"line {line}: relative import {name}")
        elif top in LAUNCHED and layer not in {"training", "train"}:
            faults.append(f"line {line}: {top} belongs in training/ and train.py")
        elif top in UNSAFE_MODULES:
            faults.append(f"line {line}: {top} runs what it reads")
        elif top == "t2f_dist" and rest and rest[0] in MAY_IMPORT and rest[0] != layer:
            allowed = MAY_IMPORT.get(layer, set())
            if rest[0] not in allowed and ".".join(rest[:2]) not in allowed:
                faults.append(f"line {line}: {layer or 'the package'} may not import {name}")
    return faults


def call_faults(source: str) -> list[str]:
    """Calls and handlers that are never written here."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id.endswith("Exception"))
            if broad and all(isinstance(statement, ast.Pass) for statement in node.body):
                faults.append(f"line {node.lineno}: an exception swallowed")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        on = {keyword.arg or "**" for keyword in node.keywords if ast.unparse(keyword.value) == "True"}
        if called in {"eval", "exec", "torch.load", "os.system"}:
            faults.append(f"line {node.lineno}: {called}(...)")
        faults += [f"line {node.lineno}: {name}=True" for name in sorted(on & {"shell", "allow_pickle"})]
        if called == "getattr" and len(node.args) == 3 and "config" in ast.unparse(node.args[0]):
            faults.append(f"line {node.lineno}: a default for a config field, beside the schema's")
    return faults


def name_faults(path: Path, root: Path = ROOT) -> list[str]:
    parts = path.relative_to(root).with_suffix("").parts
    faults = [f"{part} names no thing" for part in parts if part in NO_NOUN or part.startswith("legacy_")]
    # t2f_dist/<layer>/<module>.py, and one folder more for the sources of shards
    return faults + (["deeper than two folders"] if parts[0] == "t2f_dist" and len(parts) > 4 else [])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_source_keeps_the_rules(path: Path):
    source = path.read_text(encoding="utf-8")
    layer = layer_of(path)
    assert not layer or layer in MAY_IMPORT, f"{layer} is a new layer: put it into the table, here and in the README"
    assert import_faults(source, layer) + call_faults(source) == []


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_file_is_short_and_well_named(path: Path):
    assert name_faults(path) == []
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: split it by nouns"


@pytest.mark.parametrize(
    ("layer", "source", "fault"),
    [
        ("losses", "from t2f_dist.config import schema", "losses may not import t2f_dist.config.schema"),
        ("data", "from t2f_dist.shard import build", "data may not import t2f_dist.shard.build"),
        ("data", "import t2f_dist.shard.writer", "data may not import"),
        ("evaluation", "from t2f_dist.shard.build import build", "evaluation may not import t2f_dist.shard.build"),
        ("evaluation", "def f():\n    from t2f_dist.training.loop import run", "line 2: evaluation may not import"),
        ("models", "import accelerate.utils", "accelerate belongs"),
        ("cli", "from t2f_dist.models import networks", "cli may not import"),
        ("shard", "from . import format", "relative import"),
        ("training", "import pickle as p", "pickle runs"),
        ("", "from t2f_dist.cli import main", "the package may not import"),
    ],
)
def test_a_wrong_import_is_found(layer: str, source: str, fault: str):
    (found,) = import_faults(source, layer)
    assert fault in found


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("data", "from t2f_dist.shard import format"),
        ("data", "from t2f_dist.shard.format import Manifest"),
        ("training", "import wandb\nfrom t2f_dist.data import batch\nfrom t2f_dist.training import state"),
        ("models", "from torch import nn\nimport t2f_dist\nimport t2f_dist.models.layers"),
    ],
)
def test_a_right_import_is_let_through(layer: str, source: str):
    assert import_faults(source, layer) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "torch.load(path)",
        "subprocess.run(line, shell=True)",
        "np.load(path, allow_pickle=True)",
        "getattr(self.config, 'width', 3)",
        "try:\n    f()\nexcept Exception:\n    pass",
    ],
)
def test_a_forbidden_call_is_found(source: str):
    assert len(call_faults(source)) == 1


def test_what_only_looks_forbidden_is_let_through():
    assert call_faults("model.eval()\nnp.load(p, allow_pickle=False)\nrun(a, shell=False)\ngetattr(nn, name)") == []


def test_a_name_without_a_noun_is_found():
    assert name_faults(Path("t2f_dist/utils.py"), Path()) == ["utils names no thing"]
    assert name_faults(Path("t2f_dist/models/legacy_progan.py"), Path()) == ["legacy_progan names no thing"]
    assert name_faults(Path("t2f_dist/a/b/c/d.py"), Path()) == ["deeper than two folders"]


HELP = """
import sys
sys.argv = ["t2f-dist", "--help"]
from t2f_dist.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "torchaudio", "numpy", "pandas", "PIL", "wandb", "accelerate"} & set(sys.modules)
print("heavy:", *sorted(heavy), file=sys.stderr)
"""


def test_help_is_quick_and_loads_nothing_heavy():
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, cwd=ROOT, check=False)
        seconds.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == "heavy:", "modules to be imported inside the commands"
        assert "Usage" in done.stdout
        if seconds[-1] < 0.5:
            return
    pytest.fail(f"--help took {min(seconds):.2f} s at best, of 5; half a second is allowed")


def test_the_readme_names_every_module_and_no_other():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("t2f_dist/\n")[1].split("\nlaunch/ ")[0]
    named = re.findall(r"\b(\w+)\.py\b", tree)
    modules = [path.stem for path in SOURCES if path.parent.name != "sources" and path.parent.name != "cli"]
    assert sorted(named) == sorted(name for name in modules if name != "__init__")
