"""A raw corpus as a plan: which images become samples, whose, with what, on which side of the split, in what order."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from t2f_dist.config.recipe import Layout, ShardRecipe, SplitRecipe
from t2f_dist.shard.encode import clean_caption
from t2f_dist.shard.format import KEY_LENGTH_MAX
from t2f_dist.shard.manifest import KINDS, SPLITS, Kind, SplitName
from t2f_dist.shard.sources import (
    IMAGE_SUFFIXES,
    ORPHANED,
    Ambiguous,
    Block,
    Embeddings,
    File,
    Mention,
    Picture,
    Raw,
    Ref,
    Refusal,
    Source,
    bare,
    celeba,
    cub,
    folder,
    hdf5,
    wav2pix,
    webdataset,
)
from t2f_dist.storage import url
from t2f_dist.text.words import words

READERS: dict[Layout, Callable[[ShardRecipe], Raw]] = {
    "folder": folder.read,
    "cub": cub.read,
    "hdf5": hdf5.read,
    "celeba": celeba.read,
    "wav2pix": wav2pix.read,
    "webdataset": webdataset.read,
}

CAPTIONS_MAX = 1000  # of one image
_UNNAMED = "no caption or voice names it"


@dataclass(frozen=True)
class Voice:
    content: File
    source: str  # the path as the corpus writes it


@dataclass(frozen=True)
class Entry:
    """One image that is to become a sample."""

    path: str  # its name in the corpus: of a file, relative to the folder of faces
    key: str
    identity: str
    captions: tuple[str, ...]
    voice: Voice | None
    image: Ref
    embeddings: Embeddings | None = None  # of the captions, where the corpus brings them


@dataclass
class Plan:
    """`found` counts what is in the corpus by kind; what is in no entry is in `refusals`."""

    splits: dict[SplitName, list[Entry]]
    found: Counter[Kind]
    refusals: list[Refusal]


@dataclass
class _Draft:
    captions: list[str] = field(default_factory=list)
    embeddings: list[tuple[Block, int]] = field(default_factory=list)
    voice: Voice | None = None
    identity: str | None = None
    named: bool = False


def plan(recipe: ShardRecipe, train: bool = True) -> Plan:
    """Read the sources of a recipe and match them; no image or voice is opened yet.

    Args:
        train: some sample must be on the side of train.

    Raises:
        FileNotFoundError: a path of the recipe does not exist.
        ValueError: a source is not of its layout, an image has two identities, or nothing is left to store.
    """
    raw = READERS[recipe.layout](recipe)
    refusals = list(raw.refusals)
    drafts = {name: _Draft(identity=picture.identity) for name, picture in raw.pictures.items()}
    found: Counter[Kind] = Counter({"images": len(raw.pictures)})
    found.update(refusal.kind for refusal in refusals)
    if raw.captions is not None:
        found["captions"] += len(raw.captions.mentions)
        for mention, path in _matched(raw, raw.captions, "captions", drafts, refusals):
            _add_caption(mention, path, drafts[path], recipe, refusals)
    if raw.voices is not None:
        found["voices"] += len(raw.voices.mentions)
        for mention, path in _matched(raw, raw.voices, "voices", drafts, refusals):
            _add_voice(mention, path, raw.voices, drafts[path], refusals)

    entries = []
    keys = _keys(list(raw.pictures))
    given = recipe.captions is not None or recipe.speech is not None
    for path, picture in raw.pictures.items():
        draft = drafts[path]
        identity = _identity(path, draft.identity, recipe.identity)
        if given and not draft.named:
            refusals.append(Refusal("images", "unmatched", _UNNAMED, path))
            continue
        embeddings = Embeddings(tuple(draft.embeddings)) if draft.embeddings else None
        entry = Entry(path, keys[path], identity or "", tuple(draft.captions), draft.voice, picture.content, embeddings)
        reason = lacking(entry, recipe) if identity else f"no identity by {recipe.identity!r}"
        if not is_text(path) or not is_text(identity or ""):
            reason = f"{'an identity' if is_text(path) else 'a name'} that is not UTF-8"
        if reason:
            refusals += refused(entry, reason)
        else:
            entries.append(entry)
    if not entries:
        raise ValueError(_nothing(recipe, found, refusals))
    return Plan(_split(entries, raw.pictures, recipe, train), found, refusals)


def is_text(value: str) -> bool:
    """Whether a name can be written as UTF-8; of one that is other bytes Python makes lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    refusals += [Refusal("captions", "rejected", ORPHANED, entry.path, text) for text in entry.captions]
    if entry.voice:
        refusals.append(Refusal("voices", "rejected", ORPHANED, entry.path, entry.voice.source))
    return refusals


def main_reason(refusals: list[Refusal]) -> str:
    """The commonest cause, with an example, as the end of a message; not what only follows from another."""
    causes = [refusal for refusal in refusals if refusal.reason not in (ORPHANED, _UNNAMED)] or refusals
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


def _matched(
    raw: Raw, source: Source, kind: Kind, drafts: dict[str, _Draft], refusals: list[Refusal]
) -> Iterator[tuple[Mention, str]]:
    for mention in source.mentions:
        shown = mention.value if isinstance(mention.value, str) else repr(mention.value)
        try:
            path = raw.find(mention.image, source.folder)
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


def _add_caption(mention: Mention, path: str, draft: _Draft, recipe: ShardRecipe, refusals: list[Refusal]) -> None:
    if not isinstance(mention.value, str):
        refusals.append(Refusal("captions", "rejected", "not text", path, repr(mention.value), mention.where))
        return
    caption = clean_caption(mention.value)
    if not words(caption):
        reason = "a caption without a word" if caption else "an empty caption"
        refusals.append(Refusal("captions", "rejected", reason, path, mention.value, mention.where))
        return
    if len(draft.captions) == CAPTIONS_MAX:
        reason = f"its image has {CAPTIONS_MAX} captions already"
        refusals.append(Refusal("captions", "rejected", reason, path, mention.value, mention.where))
        return
    if recipe.brings_embeddings:
        if mention.embedding is None:
            reason = "the corpus brings no embedding of it"
            refusals.append(Refusal("captions", "rejected", reason, path, mention.value, mention.where))
            return
        draft.embeddings.append(mention.embedding)
    draft.captions.append(caption)


def _add_voice(mention: Mention, path: str, voices: Source, draft: _Draft, refusals: list[Refusal]) -> None:
    value = mention.value.strip() if isinstance(mention.value, str) else ""
    audio = voices.file(value.replace("\\", "/"))
    reason = ""
    if not value:
        reason = "no path of an audio file"
    elif not is_text(value):
        reason = "a path that is not UTF-8"
    elif audio is None:
        reason = "no such file"
    elif draft.voice is not None:
        reason = f"its image has a voice already ({draft.voice.source})"
    if reason or audio is None:
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
        keys[path] = distinct(key, path) if counts[key] > 1 or len(key) > KEY_LENGTH_MAX else key
    assert len(set(keys.values())) == len(paths), "unique keys"
    return keys


def distinct(key: str, path: str) -> str:
    """A key with a hash of the path, where another image has the same key, or the key is too long."""
    return f"{key[-(KEY_LENGTH_MAX - 17) :]}-{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def _split(
    entries: list[Entry], pictures: dict[str, Picture], recipe: ShardRecipe, train: bool
) -> dict[SplitName, list[Entry]]:
    """By split, each in an order that depends on the seed and the key alone, so that neighbours are mixed."""
    splits: dict[SplitName, list[Entry]] = {split: [] for split in SPLITS}
    for entry in entries:
        side = pictures[entry.path].split if recipe.split.given else split_of(entry.identity, recipe.split)
        assert side is not None, "a layout with split.given names the side of each image"
        splits[side].append(entry)
    for side in splits.values():
        side.sort(key=lambda entry: hashlib.sha256(f"order:{recipe.seed}:{entry.key}".encode()).digest())
    if train and not splits["train"]:
        identities = len({entry.identity for entry in entries})
        if recipe.split.given:
            raise ValueError(f"{url.shown(recipe.faces)} has no usable sample in its train; set split.given=false")
        raise ValueError(
            f"all {identities} identities fall into validation or test, none into train; "
            "with so few, set split.validation=0 and split.test=0"
        )
    return splits


def _nothing(recipe: ShardRecipe, found: Counter[Kind], refusals: list[Refusal]) -> str:
    counts = ", ".join(f"{found[kind]} {kind}" for kind in KINDS if kind in found)
    return f"no usable sample: {counts} found for {url.shown(recipe.faces)}{main_reason(refusals)}"
