"""CelebA and what is built on it: Multi-Modal-CelebA-HQ's ten captions a face, or CelebA's list of attributes.

Images in one folder (`images/0.jpg`); `captions` names a folder with a text file an image, a caption a line
(`text/0.txt`), or an attribute file: a line with the number of rows, a line with the names of the attributes, then a
row an image, its name and 1 or -1 for each (`list_attr_celeba.txt`, `CelebAMask-HQ-attribute-anno.txt`).

Of attributes one plain caption is made: those that are 1, in the order of the file, as `caption` says them. What is -1
is not said, so "a person" is someone who is not marked Male. The words are the annotators' judgements, nothing more.

Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015, arXiv:1411.7766; Xia et al., TediGAN: Text-Guided
Diverse Face Image Generation and Manipulation, CVPR 2021, arXiv:2012.03308.
"""

from dataclasses import replace

from t2f_dist.config.recipe import CelebaRecipe, ShardRecipe
from t2f_dist.shard.sources import IMAGE_SUFFIXES, Mention, Raw, Source, bare, folder
from t2f_dist.shard.sources.faces import Faces
from t2f_dist.storage import url
from t2f_dist.storage.stage import staged

_ALONE = frozenset(["Attractive", "Bald", "Blurry", "Chubby", "Smiling"])
_WORN = frozenset(["Eyeglasses"])  # and what begins with Wearing_
# What is said otherwise than by the attribute's own words, in small letters.
_WORDS = {"5_o_Clock_Shadow": "a five o'clock shadow", "Mouth_Slightly_Open": "the mouth slightly open"} | {
    name: f"{'an' if name[0] in 'AEIOU' else 'a'} {name.replace('_', ' ').lower()}"
    for name in ("Big_Nose", "Double_Chin", "Goatee", "Mustache", "Oval_Face", "Pointy_Nose", "Receding_Hairline")
}
_WORN_ONCE = frozenset(["Wearing_Hat", "Wearing_Necklace", "Wearing_Necktie"])


def read(recipe: ShardRecipe) -> Raw:
    """The layout `celeba`.

    Raises:
        FileNotFoundError: a path of the recipe does not exist.
        ValueError: a source is not of its layout.
    """
    faces = Faces(recipe.faces)
    pictures = faces.pictures()
    identities = _identities(recipe.celeba)
    if identities is not None:
        pictures = {path: replace(picture, identity=identities.get(_stem(path))) for path, picture in pictures.items()}
    path = folder.existing(recipe.captions, "captions")
    captions = folder.read_captions(path) if folder.is_folder(path) else _attributes(path)
    # Voices are no part of these corpora, but a table of them may be given beside any.
    voices = folder.voices(recipe)
    return Raw(pictures, faces.find, captions, voices)


def caption(attributes: list[str]) -> str:
    """One caption of the attributes that hold, in their order: with the noun, the features, the rest, what is worn.

    `["Brown_Hair", "Eyeglasses", "Male", "Smiling", "Young"]` gives
    "a young man with brown hair, smiling, wearing eyeglasses".
    """
    features, alone, worn = [], [], []
    for name in attributes:
        if name in ("Male", "Young"):
            continue
        words = _WORDS.get(name, name.replace("_", " ").lower())
        if name.startswith("Wearing_") or name in _WORN:
            worn.append(("a " if name in _WORN_ONCE else "") + words.removeprefix("wearing "))
        elif name in _ALONE:
            alone.append(words)
        else:
            features.append(words)
    noun = ("young " if "Young" in attributes else "") + ("man" if "Male" in attributes else "person")
    parts = ["a " + noun + (f" with {_list(features)}" if features else ""), *alone]
    return ", ".join(parts + ([f"wearing {_list(worn)}"] if worn else []))


def _list(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _attributes(place: str) -> Source:
    lines, shown = _lines(place), url.shown(place)
    root, file = url.split(place)
    if len(lines) < 2 or not lines[0].strip().isdigit():
        raise ValueError(f"{shown}: expected the number of rows in line 1 and the names of the attributes in line 2")
    names = lines[1].split()
    rows = [(number, line.split()) for number, line in enumerate(lines[2:], start=3) if line.strip()]
    mentions = []
    for number, (image, *values) in rows:
        if len(values) != len(names) or not {"1", "-1"}.issuperset(values):
            raise ValueError(f"{shown}: line {number} is not an image and {len(names)} values of 1 or -1")
        held = [name for name, value in zip(names, values) if value == "1"]
        mentions.append(Mention(image, caption(held), None, f"{file}: line {number}"))
    if len(rows) != int(lines[0]):
        raise ValueError(f"{shown}: {len(rows)} rows, where line 1 says {lines[0].strip()}; the file is not whole")
    return Source(root, mentions)


def _identities(recipe: CelebaRecipe) -> dict[str, str] | None:
    """The person by the stem of the image."""
    if recipe.identities is None:
        if recipe.mapping is not None:
            raise ValueError("celeba.mapping is of use only with celeba.identities")
        return None
    path = folder.existing(recipe.identities, "celeba.identities")
    shown = url.shown(path)
    people: dict[str, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        row = line.split()
        if len(row) != 2:
            raise ValueError(f"{shown}: line {number} is not an image and a person: {line.strip()[:80]}")
        if people.setdefault(_stem(row[0]), row[1]) != row[1]:
            raise ValueError(f"{shown}: line {number}: {row[0]} has the identity {row[1]}, and elsewhere another")
    if recipe.mapping is None:
        return people
    path = folder.existing(recipe.mapping, "celeba.mapping")
    shown = url.shown(path)
    header, *lines = _lines(path) or [""]
    columns = header.split()
    if "idx" not in columns or "orig_file" not in columns:
        raise ValueError(f"{shown}: line 1 has no columns idx and orig_file, only {', '.join(columns) or 'nothing'}")
    mapped = {}
    for number, line in enumerate(lines, start=2):
        row = dict(zip(columns, line.split()))
        if line.strip() and len(row) < len(columns):
            raise ValueError(f"{shown}: line {number} has {len(row)} of {len(columns)} columns")
        if row and _stem(row["orig_file"]) in people:
            mapped[row["idx"]] = people[_stem(row["orig_file"])]
    return mapped


def _lines(place: str) -> list[str]:
    shown = url.shown(place)
    path = staged(place)
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown}: not a text file in UTF-8 ({error.reason})") from None
    except OSError as error:
        raise ValueError(f"{shown}: cannot be read: {error.strerror}") from None


def _stem(path: str) -> str:
    return bare(path.rpartition("/")[2], IMAGE_SUFFIXES)
