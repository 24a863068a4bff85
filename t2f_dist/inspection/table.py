"""A census as text, for a terminal."""

from t2f_dist.inspection.census import Census
from t2f_dist.inspection.spread import Spread

REASONS_SHOWN = 12


def text(census: Census) -> str:
    """What the shards hold, a line a kind and a split."""
    manifest = census.manifest
    side = manifest.image_resolution
    shape = f"{side}x{side} {manifest.image_format}" if manifest.squared else f"of any size, read as {side}x{side}"
    voices = f", voices at {manifest.sample_rate_hz} Hz" if manifest.sample_rate_hz else ", no voices"
    vocabulary = f", vocabulary of {manifest.vocabulary.num_words} words" if manifest.vocabulary else ", no captions"
    embeddings = ", no embeddings"
    if manifest.embedding:
        whose = f"by {printable(manifest.embedding.model)}" if manifest.embedding.source == "model" else "of the corpus"
        embeddings = f", embeddings of {manifest.embedding.size} values {whose}"
    lines = [
        f"{census.place}: {shape}{vocabulary}{embeddings}{voices}",
        f"fingerprint {manifest.fingerprint}",
        "",
        f"{'':<11}{'found':>11}{'stored':>11}{'rejected':>11}{'unmatched':>11}",
    ]
    for kind, total in manifest.totals.items():
        lines.append(f"{kind:<11}{total.found:>11}{total.stored:>11}{total.rejected:>11}{total.unmatched:>11}")
    if manifest.duplicates is not None:
        lines.append(f"{'duplicates':<11}{manifest.duplicates:>11}")
    lines += [*_rejections(census), "", *_splits(census), "", *_spreads(census)]
    if census.shared_identities:
        lines.append(f"{census.shared_identities} identities are in more than one split")
    damaged = 0 if census.quick else sum(split.damaged for split in census.splits.values())
    if damaged:
        lines.append(f"{damaged} captions or sizes could not be read: t2f-dist verify {census.place}")
    return "\n".join(lines)


def _rejections(census: Census) -> list[str]:
    if not census.rejections:
        return []
    shown = census.rejections[:REASONS_SHOWN]
    lines = ["", f"{'not stored':<11}{'how many':>11}  reason (N: a number)"]
    lines += [printable(f"{each.kind:<11}{each.count:>11}  {each.status}: {each.reason}") for each in shown]
    rest = sum(each.count for each in census.rejections[REASONS_SHOWN:])
    return [*lines, f"{'':<11}{rest:>11}  other reasons"] if rest else lines


def _splits(census: Census) -> list[str]:
    lines = [f"{'split':<11}{'samples':>11}{'identities':>13}{'voices':>11}{'shards':>8}{'MB':>11}{'small files':>12}"]
    for name, split in census.splits.items():
        about = "" if split.identities.exact else "~"
        lines.append(
            f"{name:<11}{split.samples:>11}{f'{about}{split.identities.num}':>13}{split.voices:>11}{split.shards:>8}"
            f"{split.bytes['tars'] / 1e6:>11.1f}{split.bytes['small'] / 1e6:>12.1f}"
        )
    return lines


def _spreads(census: Census) -> list[str]:
    whole = census.whole
    rows: list[tuple[str, Spread, float]] = [
        ("captions an image", whole.captions, 1),
        ("words a caption", whole.words, 1),
        ("seconds a voice", whole.seconds, 1),
        ("source width, px", whole.width, 1),
        ("source height, px", whole.height, 1),
        ("image, kB", whole.image_bytes, 1e-3),
    ]
    rows += [
        (f"samples an identity, {name}", split.identities.occurrences(), 1) for name, split in census.splits.items()
    ]
    lines = [f"{'':<33}{'min':>9}{'median':>9}{'mean':>9}{'max':>9}"]
    for title, spread, factor in rows:
        if spread.count:
            values = (spread.min, spread.median, spread.mean, spread.max)
            lines.append(f"{title:<33}" + "".join(f"{figure(value * factor):>9}" for value in values))
    return lines


def figure(value: float) -> str:
    """A number as people read it: whole, or with the digits that tell."""
    if value == round(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def printable(line: str) -> str:
    """Without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)
