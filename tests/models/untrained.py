"""Snapshots with untrained weights: small, and enough for all that a snapshot promises."""

from pathlib import Path

from t2f_dist.models.facts import Facts
from t2f_dist.models.networks import build
from t2f_dist.models.snapshot import Corpus, Snapshot
from t2f_dist.shard.format import identity_number
from t2f_dist.text.vocabulary import Vocabulary
from tests.training.small import config

WORDS = ("a", "woman", "man", "with", "red", "hair", "smiling", "glasses")
IDENTITIES = tuple(sorted(identity_number(name) for name in ("Ada", "Émile", "p 3")))
EMBEDDING = {"size": 5, "model": "small-model", "sha256": "0" * 64, "source": "model"}
SAMPLE_RATE_HZ = 16_000


def untrained(
    *overrides: str, recipe: str = "house", words: tuple[str, ...] = WORDS, corpus: Corpus | None = None
) -> Snapshot:
    """8 x 8 pixels, half faded in where it grows; float64 unless overridden; it names shards that do not exist.

    corpus: else of `words`, IDENTITIES and EMBEDDING.
    """
    settings = config(recipe, Path("no/such/shards"), Path("no/such/run"), *overrides)
    corpus = corpus or Corpus(Vocabulary(words).to_json(), EMBEDDING, IDENTITIES)
    facts = Facts(
        num_words=len(Vocabulary.from_json(corpus.vocabulary)) if corpus.vocabulary else 0,
        embedding_size=corpus.embedding["size"] if corpus.embedding else 0,
        sample_rate_hz=SAMPLE_RATE_HZ,
        num_identities=len(corpus.identities),
    )
    generator = build(settings, facts).generator.requires_grad_(False).eval()
    alpha = 0.5 if len({stage.resolution for stage in settings.stages}) > 1 else 1.0
    last = settings.stages[-1].resolution
    return Snapshot(generator, settings, facts, corpus, images_seen=72, resolution=last, alpha=alpha)
