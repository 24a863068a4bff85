"""A real sentence encoder: what is near in meaning is near, and nothing but its folder is used."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from t2f_dist.text.sentence import SentenceEncoder, fingerprint
from tests.sentence_model import model_folder

CAPTIONS = [
    "a young woman with long red hair",
    "an old man",
    "He smiles, and his eyes are closed; a thick black beard hides most of his mouth.",
    "bald",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return model_folder()


@pytest.fixture(scope="module")
def encoder(folder: Path) -> SentenceEncoder:
    return SentenceEncoder(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copied", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.mark.parametrize(
    ("one", "near", "far"),
    [
        ("a young woman with long red hair", "a girl whose hair is long and ginger", "a bald old man with a beard"),
        ("he wears glasses", "a man with spectacles", "she has blond hair"),
        ("she looks happy", "a smiling woman", "an angry man in a suit"),
    ],
)
def test_what_means_nearly_the_same_is_nearer(encoder: SentenceEncoder, one: str, near: str, far: str):
    first, second, third = encoder.encode([one, near, far])
    assert first @ second > first @ third + 0.1


def test_an_embedding_is_a_function_of_its_caption_alone(encoder: SentenceEncoder):
    alone = np.concatenate([encoder.encode([caption]) for caption in CAPTIONS])
    assert alone.shape == (len(CAPTIONS), encoder.size) == (4, 384)
    assert alone.dtype == np.float32
    order = [3, 1, 0, 2, 2, 0]
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert np.array_equal(encoder.encode([CAPTIONS[index] for index in order]), alone[order])
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)


def test_it_is_what_the_library_gives(encoder: SentenceEncoder, folder: Path):
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found = encoder.encode(CAPTIONS)
    assert np.abs(found - library.encode(CAPTIONS, batch_size=4, show_progress_bar=False)).max() < 1e-6
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6


def test_no_caption_no_row(encoder: SentenceEncoder):
    assert encoder.encode([]).shape == (0, 384)


def test_the_fingerprint_is_that_of_names_and_contents(copy: Path, folder: Path, encoder: SentenceEncoder):
    before = fingerprint(copy)
    names = sorted((path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()), key=str.encode)
    shown = [name for name in names if not name.startswith(".")]
    printed = subprocess.run(["sha256sum", *shown], cwd=copy, capture_output=True, check=True).stdout
    assert subprocess.run(["sha256sum"], input=printed, capture_output=True, check=True).stdout[:64].decode() == before
    assert fingerprint(folder) == before == encoder.sha256

    (copy / ".cache").mkdir()
    (copy / ".cache/when").write_text("now")
    assert fingerprint(copy) == before
    (copy / "vocab.txt").rename(copy / "words.txt")
    assert fingerprint(copy) != before
    (copy / "words.txt").rename(copy / "vocab.txt")
    assert SentenceEncoder(copy, before).name == "copied"
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="not the one that embedded the captions"):
        SentenceEncoder(copy, before)


def test_a_folder_that_is_no_model(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SentenceEncoder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no sentence-transformers model: it holds no modules\.json"):
        SentenceEncoder(tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", '{"type": 1}', '[{"name": "0"}]', "null"])
def test_a_damaged_list_of_modules(tmp_path: Path, content: str):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ValueError, match=r"modules\.json is damaged"):
        SentenceEncoder(tmp_path)


def test_code_in_the_folder_never_runs(copy: Path):
    (copy / "own.py").write_text(f"open({str(copy / 'ran')!r}, 'w')\nclass Model: ...\n")
    modules = json.loads((copy / "modules.json").read_text())
    (copy / "modules.json").write_text(json.dumps([*modules, {"idx": 3, "name": "3", "path": "", "type": "own.Model"}]))
    with pytest.raises(ValueError, match=r"needs code of its own \(own\.Model\)"):
        SentenceEncoder(copy)
    (copy / "modules.json").write_text(json.dumps(modules))
    config = json.loads((copy / "config.json").read_text())
    changed = config | {"model_type": "unheard-of", "auto_map": {"AutoConfig": "own.Model", "AutoModel": "own.Model"}}
    (copy / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        SentenceEncoder(copy)
    assert "\n" not in str(error.value)
    assert not (copy / "ran").exists()


def test_pickles_are_refused(copy: Path):
    (copy / "pytorch_model.bin").write_bytes(b"beside safetensors, so never opened")
    SentenceEncoder(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle"):
        SentenceEncoder(copy)


def test_damaged_or_missing_weights_are_one_line(copy: Path):
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        SentenceEncoder(copy)
    assert "\n" not in str(error.value)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be loaded"):
        SentenceEncoder(copy)


def test_without_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"`pip install -e '\.\[embed\]'` in a clone"):
        SentenceEncoder(folder)


def test_the_network_is_never_reached(folder: Path):
    """In a fresh process, in which any name looked up or connection made ends it."""
    script = (
        "import os, sys\n"
        "def watch(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        os.write(2, f'{event} {args}'.encode()); os._exit(3)\n"
        "sys.addaudithook(watch)\n"
        "from t2f_dist.text.sentence import SentenceEncoder\n"
        f"print(SentenceEncoder({str(folder)!r}).encode(['a face']).shape)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (found.returncode, found.stdout.splitlines()[-1:], found.stderr) == (0, ["(1, 384)"], "")
