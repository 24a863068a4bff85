"""Captions as vectors of a sentence encoder: a local folder of the sentence-transformers library."""

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MODULES = "modules.json"
_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")


class SentenceEncoder:
    """A sentence encoder (Reimers & Gurevych 2019, 1908.10084), on the CPU.

    Only what stands in the folder is used: nothing is fetched, no code of the folder runs, no pickle is opened.

    Args:
        folder: a model as sentence-transformers saves it, with modules.json and weights in safetensors.
        sha256: the fingerprint that the folder must have; None for any.

    Attributes:
        name: of the folder.
        sha256: the fingerprint of its files.
        size: values of an embedding.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: not such a model, one that needs its own code or a pickle, one of another fingerprint, or the
            library is not installed.
    """

    def __init__(self, folder: str | Path, sha256: str | None = None):
        self.folder = Path(folder)
        check(self.folder)
        self.name = self.folder.resolve().name
        self.sha256 = fingerprint(self.folder)
        if sha256 not in (None, self.sha256):
            raise ValueError(
                f"the model in {folder} is not the one that embedded the captions: "
                f"its sha256 is {self.sha256[:12]}..., not {sha256[:12]}...; use that one, or build the shards again"
            )
        if importlib.util.find_spec("sentence_transformers") is None:
            raise ValueError(
                "a sentence encoder needs sentence-transformers: `make install` brings it; else"
                " `pip install -e '.[embed]'` in a clone"
            )
        self._model = _load(self.folder)
        self.size = self.encode(["a face"]).shape[1]

    def encode(self, captions: Sequence[str]) -> np.ndarray:
        """float32 [N, size], as the model gives them: of unit length if it normalizes.

        One caption at a time, on one thread: an embedding is a function of its caption alone, bit for bit, whatever
        it stands beside and however many cores there are. (In batches it is about twice as fast, and the last bits
        change with what else is in the batch.) Another kind of processor may round otherwise, by some 1e-7.

        Raises:
            ValueError: the model fails, or gives no finite vector.
        """
        if not captions:
            return np.zeros((0, self.size), dtype=np.float32)
        with _one_thread():
            found = {caption: self._encode(caption) for caption in dict.fromkeys(captions)}
        return np.stack([found[caption] for caption in captions])

    def _encode(self, caption: str) -> np.ndarray:
        try:
            vector = self._model.encode([caption], convert_to_numpy=True, show_progress_bar=False)[0]
        except Exception as error:  # the model's own code, which may raise anything
            raise ValueError(f"the model in {self.folder} fails at {caption!r}: {_line(error)}") from None
        vector = np.asarray(vector)
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise ValueError(f"the model in {self.folder} gives no finite vector for {caption!r}")
        return vector.astype(np.float32)


def fingerprint(folder: str | Path) -> str:
    """sha256 of what `sha256sum` prints for the folder's files, by relative path in byte order; hidden ones left out.

    Hidden files and folders are those whose name begins with a dot, such as what a download leaves behind.
    """
    folder = Path(folder)
    lines = {}
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            with open(path, "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            lines[relative.as_posix().encode()] = content.encode() + b"  " + relative.as_posix().encode() + b"\n"
    return hashlib.sha256(b"".join(lines[name] for name in sorted(lines))).hexdigest()


def check(folder: Path) -> None:
    """That it is a model of the library which loads without its own code and without a pickle.

    Raises FileNotFoundError, ValueError, as SentenceEncoder does.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder of a sentence encoder: {folder}")
    path = folder / _MODULES
    if not path.is_file():
        raise ValueError(f"{folder} is no sentence-transformers model: it holds no {_MODULES}")
    try:
        kinds = [module["type"] for module in json.loads(path.read_bytes())]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is damaged: not a list of modules, each with its type") from None
    for kind in kinds:
        if not str(kind).startswith("sentence_transformers."):
            raise ValueError(f"{folder} needs code of its own ({kind}), which is not run here; choose another model")
    for pattern in _PICKLES:
        for pickled in sorted(folder.rglob(pattern)):
            if not list(pickled.parent.glob("*.safetensors")):
                raise ValueError(f"{pickled} is a pickle, which is not opened here; save the model as safetensors")


def _load(folder: Path) -> "SentenceTransformer":
    import torch
    from sentence_transformers import SentenceTransformer

    try:
        with _without_bars():
            return SentenceTransformer(
                str(folder),
                device="cpu",
                trust_remote_code=False,
                local_files_only=True,
                # float32 whatever it is saved in, since the CPU rounds half precision coarsely
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            ).eval()
    except Exception as error:  # on a broken folder the library raises nearly anything
        raise ValueError(f"the model in {folder} cannot be loaded: {_line(error)}") from None


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
