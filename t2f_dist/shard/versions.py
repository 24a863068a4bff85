"""The libraries that decide about the bytes of shards, and their versions."""

import importlib.metadata
from typing import Any

import soundfile
from PIL import features

from t2f_dist.config.recipe import ShardRecipe

_SPOKEN = ("soundfile", "torchaudio", "torch")
_EMBEDDED = ("sentence-transformers", "transformers", "tokenizers", "torch")


def made_with(recipe: ShardRecipe) -> dict[str, Any]:
    """What besides the corpus and the recipe decides about the bytes; null: not installed."""
    found = {name: _version(name) for name in ("t2f-dist", "Pillow")}
    # Of the two numbers that Pillow knows, that of the interface has not changed in twenty years.
    found["libjpeg"] = features.version_feature("libjpeg_turbo") or str(features.version("jpg"))
    if recipe.image.format == "png":
        zlib_ng = features.version_feature("zlib_ng") if "zlib_ng" in features.features else None
        found["zlib"] = f"zlib-ng {zlib_ng}" if zlib_ng else str(features.version("zlib"))
    if recipe.speech:
        found |= {name: _version(name) for name in _SPOKEN} | {"libsndfile": soundfile.__libsndfile_version__}
    if recipe.embed:
        found |= {name: _version(name) for name in _EMBEDDED}
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None  # told with its remedy where it is needed
