"""A snapshot with untrained weights: small, and enough for all that a snapshot promises."""

from pathlib import Path

from t2f_dist.models.networks import build
from t2f_dist.models.snapshot import Snapshot
from t2f_dist.text.vocabulary import Vocabulary
from tests.training.small import config

WORDS = ("a", "woman", "man", "with", "red", "hair", "smiling", "glasses")


def untrained(*overrides: str, recipe: str = "house", words: tuple[str, ...] = WORDS) -> Snapshot:
    """8 x 8 pixels, half faded in; float64 unless overridden; it names shards that do not exist."""
    settings = config(recipe, Path("no/such/shards"), Path("no/such/run"), *overrides)
    vocabulary = Vocabulary(words)
    generator = build(settings, len(vocabulary)).generator.requires_grad_(False).eval()
    return Snapshot(generator, settings, vocabulary.to_json(), images_seen=72, resolution=8, alpha=0.5)
