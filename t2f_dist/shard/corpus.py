"""A raw corpus as a plan: which images become samples, whose, with what, on which side of the split, in what order."""

import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from t2f_dist.config.recipe import ShardRecipe, SplitRecipe
from t2f_dist.shard.encode import clean_caption
from t2f_dist.shard.format import KEY_LENGTH_MAX, KINDS, SPLITS, Kind, SplitName
from t2f_dist.shard.sources import IMAGE_SUFFIXES, Embeddings, Mention, Source, bare, face2text, folder, table
from t2f_dist.shard.sources.faces import Ambiguous, Faces
from t2f_dist.text.words import words

_ORPHANED = "its image is rejected"
_UNNAMED = "no caption or voice names it"


@dataclass(frozen=True)
class Voice:
    path: Path
    source: str  # the path as the corpus writes it


@dataclass(frozen=True)
class Entry:
    """One image that is to become a sample."""

    path: str  # relative to the folder of faces
    key: str
    identity: str
    captions: tuple[str, ...]
    voice: Voice | None
    embeddings: Embeddings | None = None  # of the captions, where the corpus brings them


@dataclass(frozen=True)
class Refusal:
    """An image, caption or voice that is not stored, and why: one line of rejected.jsonl."""

    kind: Kind
    status: str  # rejected | unmatched
    reason: str
    image: str
    value: str = ""  # the caption's text, or the path of the voice
    where: str = ""

    def row(self) -> dict[str, str]:
        value = {"captions": {"caption": self.value}, "voices": {"speech": self.value}}.get(self.kind, {})
        where = {"where": self.where} if self.where else {}
        return {"kind": self.kind, "status": self.status, "image": self.image, **value, **where, "reason": self.reason}


@dataclass
class Plan:
    """`found` counts what is in the corpus by kind; what is in no entry is in `refusals`."""

    splits: dict[SplitName, list[Entry]]
    found: Counter[Kind]
    refusals: list[Refusal]


@dataclass
class _Draft:
    captions: list[str] = field(default_factory=list)
    voice: Voice | None = None
    identity: str | None = None
    named: bool = False


def plan(recipe: ShardRecipe) -> Plan:
    """Read the sources of a recipe and match them; no image or voice is opened yet.

    Raises:
        FileNotFoundError: a path of the recipe does not exist.
        ValueError: a source is not of its layout, an image has two identities, or nothing is left to store.
    """
    faces = Faces(recipe.faces)
    drafts: defaultdict[str, _Draft] = defaultdict(_Draft)
    found: Counter[Kind] = Counter({"images": len(faces.paths)})
    refusals: list[Refusal] = []
    if recipe.captions is not None:
        source = read_captions(recipe)
        found["captions"] = len(source.mentions)
        for mention, path in _matched(source, faces, "captions", drafts, refusals):
            _add_caption(mention, path, drafts[path], refusals)
    if recipe.speech is not None:
        source = read_voices(recipe)
        found["voices"] = len(source.mentions)
        for mention, path in _matched(source, faces, "voices", drafts, refusals):
            _add_voice(mention, path, source.folder, drafts[path], refusals)

    entries = []
    keys = _keys(faces.paths)
    given = recipe.captions is not None or recipe.speech is not None
    for path in faces.paths:
        draft = drafts.get(path, _Draft())
        identity = _identity(path, draft.identity, recipe.identity)
        if given and not draft.named:
            refusals.append(Refusal("images", "unmatched", _UNNAMED, path))
            continue
        entry = Entry(path, keys[path], identity or "", tuple(draft.captions), draft.voice)
        reason = lacking(entry, recipe) if identity else f"no identity by {recipe.identity!r}"
        if reason:
            refusals += refused(entry, reason)
        else:
            entries.append(entry)
    if not entries:
        raise ValueError(_nothing(recipe, found, refusals))
    return Plan(_split(entries, recipe), found, refusals)


def read_captions(recipe: ShardRecipe) -> Source:
    path = _existing(recipe.captions, "captions")
    columns = recipe.text
    if path.is_dir():
        return folder.read_captions(path)
    if path.suffix == ".json":
        return face2text.read(path)
    if path.suffix in (".csv", ".tsv", ".jsonl"):
        return table.read(
            path, columns.image_column, columns.caption_column, table.CAPTION_COLUMNS, columns.identity_column
        )
    raise ValueError(f"captions {path}: expected .json (Face2Text), .csv, .tsv, .jsonl, or a folder of .txt")


def read_voices(recipe: ShardRecipe) -> Source:
    path = _existing(recipe.speech, "speech")
    columns = recipe.audio
    if path.is_dir():
        return folder.read_voices(path)
    if path.suffix in (".csv", ".tsv", ".jsonl"):
        return table.read(
            path, columns.image_column, columns.audio_column, table.AUDIO_COLUMNS, columns.identity_column
        )
    raise ValueError(f"speech {path}: expected .csv, .tsv, .jsonl, or a folder of audio files named as the images")


def lacking(entry: Entry, recipe: ShardRecipe) -> str:
    """Why an image does not become a sample for want of captions or a voice; empty if it does."""
    if recipe.require in ("captions", "both") and not entry.captions:
        return "no usable caption, and require asks for one"
    if recipe.require in ("speech", "both") and not entry.voice:
        return "no usable voice, and require asks for one"
    if (recipe.captions or recipe.speech) and not entry.captions and not entry.voice:
        return "none of its captions or voices is usable"
    return ""


def refused(entry: Entry, reason: str) -> list[Refusal]:
    """An image that is rejected, and with it the captions and the voice that it still has."""
    refusals = [Refusal("images", "rejected", reason, entry.path)]
    refusals += [Refusal("captions", "rejected", _ORPHANED, entry.path, text) for text in entry.captions]
    if entry.voice:
        refusals.append(Refusal("voices", "rejected", _ORPHANED, entry.path, entry.voice.source))
    return refusals


def main_reason(refusals: list[Refusal]) -> str:
    """The commonest cause, with an example, as the end of a message; not what only follows from another."""
    causes = [refusal for refusal in refusals if refusal.reason not in (_ORPHANED, _UNNAMED)] or refusals
    if not causes:
        return ""
    (kind, reason), times = Counter((cause.kind, cause.reason) for cause in causes).most_common(1)[0]
    example = next(cause for cause in causes if (cause.kind, cause.reason) == (kind, reason))
    return f"; most often, of {kind}: {reason} ({times} times, such as {example.image!r})"


def split_of(identity: str, fractions: SplitRecipe) -> SplitName:
    """The side on which an identity stands: a function of its name alone, so it stays when the corpus grows."""
    place = int.from_bytes(hashlib.sha256(f"split:{identity}".encode()).digest()[:8], "big") / 2**64
    if place < fractions.test:
        return "test"
    return "validation" if place < fractions.test + fractions.validation else "train"


def _matched(source: Source, faces: Faces, kind: Kind, drafts: defaultdict[str, _Draft], refusals: list[Refusal]):
    for mention in source.mentions:
        shown = mention.value if isinstance(mention.value, str) else repr(mention.value)
        try:
            path = faces.find(mention.image, source.folder)
        except Ambiguous as error:
            refusals.append(Refusal(kind, "unmatched", str(error), mention.image, shown, mention.where))
            continue
        if path is None:
            refusals.append(Refusal(kind, "unmatched", "names no image", mention.image, shown, mention.where))
            continue
        draft = drafts[path]
        draft.named = True
        if mention.identity and draft.identity not in (None, mention.identity):
            raise ValueError(
                f"{mention.where}: {path} has the identity {mention.identity!r}, and elsewhere {draft.identity!r}"
            )
        draft.identity = mention.identity or draft.identity
        yield mention, path


def _add_caption(mention: Mention, path: str, draft: _Draft, refusals: list[Refusal]) -> None:
    if not isinstance(mention.value, str):
        refusals.append(Refusal("captions", "rejected", "not text", path, repr(mention.value), mention.where))
        return
    caption = clean_caption(mention.value)
    if not words(caption):
        reason = "a caption without a word" if caption else "an empty caption"
        refusals.append(Refusal("captions", "rejected", reason, path, mention.value, mention.where))
        return
    draft.captions.append(caption)


def _add_voice(mention: Mention, path: str, folder: Path, draft: _Draft, refusals: list[Refusal]) -> None:
    value = mention.value.strip() if isinstance(mention.value, str) else ""
    audio = folder / value.replace("\\", "/")
    reason = ""
    if not value:
        reason = "no path of an audio file"
    elif not audio.is_file():
        reason = "no such file"
    elif draft.voice is not None:
        reason = f"its image has a voice already ({draft.voice.source})"
    if reason:
        refusals.append(Refusal("voices", "rejected", reason, path, value, mention.where))
    else:
        draft.voice = Voice(audio, value)


def _identity(path: str, given: str | None, rule: str) -> str | None:
    parent, _, name = path.rpartition("/")
    stem, folder_name = bare(name, IMAGE_SUFFIXES), parent.rpartition("/")[2] or None
    if rule in ("auto", "column", "folder", "stem"):
        auto = given or folder_name or stem
        return {"auto": auto, "column": given, "folder": folder_name, "stem": stem}[rule]
    match = re.search(rule, path)
    return match and (match.group(1) if match.re.groups else match.group())


def _keys(paths: list[str]) -> dict[str, str]:
    """A name a sample, of the letters that WebDataset leaves alone: it cuts at the first dot, and / makes folders."""
    plain = {}
    for path in paths:
        plain[path] = re.sub(r"[^A-Za-z0-9_-]+", "-", bare(path, IMAGE_SUFFIXES)).strip("-") or "x"
    counts = Counter(plain.values())
    keys = {}
    for path, key in plain.items():
        if counts[key] > 1 or len(key) > KEY_LENGTH_MAX:
            key = f"{key[-(KEY_LENGTH_MAX - 17) :]}-{hashlib.sha256(path.encode()).hexdigest()[:16]}"
        keys[path] = key
    assert len(set(keys.values())) == len(paths), "unique keys"
    return keys


def _split(entries: list[Entry], recipe: ShardRecipe) -> dict[SplitName, list[Entry]]:
    """By split, each in an order that depends on the seed and the key alone, so that neighbours are mixed."""
    splits: dict[SplitName, list[Entry]] = {split: [] for split in SPLITS}
    for entry in entries:
        splits[split_of(entry.identity, recipe.split)].append(entry)
    for side in splits.values():
        side.sort(key=lambda entry: hashlib.sha256(f"order:{recipe.seed}:{entry.key}".encode()).digest())
    if not splits["train"]:
        identities = len({entry.identity for entry in entries})
        raise ValueError(
            f"all {identities} identities fall into validation or test, none into train; "
            "with so few, set split.validation=0 and split.test=0"
        )
    return splits


def _existing(path: str | None, what: str) -> Path:
    assert path is not None
    if not Path(path).exists():
        raise FileNotFoundError(f"no such {what}: {path}")
    return Path(path)


def _nothing(recipe: ShardRecipe, found: Counter[Kind], refusals: list[Refusal]) -> str:
    counts = ", ".join(f"{found[kind]} {kind}" for kind in KINDS if kind in found)
    return f"no usable sample: {counts} found for {recipe.faces}{main_reason(refusals)}"
