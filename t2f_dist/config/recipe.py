"""A corpus and what becomes of it: the one model that the flags and the recipe files of `t2f-dist shard` fill."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from t2f_dist.config.load import Section
from t2f_dist.config.numbers import SampleRate

# How the corpus stands on the disk; t2f_dist.shard.corpus has a reader for each.
Layout = Literal["folder", "cub", "hdf5", "celeba", "wav2pix", "webdataset"]
Fraction = Annotated[float, Field(ge=0, le=1)]


class ImageRecipe(Section):
    resolution: int = Field(
        default=128, ge=4, le=1024
    )  # pixels a side; a power of two, so that stages halve it exactly
    format: Literal["jpg", "png"] = "jpg"
    quality: int = Field(default=95, ge=1, le=100)  # of jpg, always 4:4:4
    fit: Literal["crop", "pad", "stretch"] = "crop"  # how a picture that is not square becomes square
    crop_fraction: float = Field(default=1.0, gt=0, le=1)  # the central share of the picture that is kept
    crop_box: tuple[Fraction, Fraction, Fraction, Fraction] | None = None  # or: left, top, right, bottom, as shares
    background: str = "#ffffff"  # under transparent pixels, and beside a padded picture
    allow_upscale: bool = False  # else a picture smaller than the resolution is rejected
    swap_red_blue: bool = False  # for pictures that were written with these two channels exchanged
    # A JPEG that is much larger is decoded at a reduced scale, which still leaves the area filter enough; or whole.
    jpeg_decoding: Literal["reduced", "whole"] = "reduced"
    # A picture that is already square at the resolution, upright, RGB, of the format and whole keeps its bytes.
    pass_through: bool = False

    @field_validator("resolution")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"{value} is not a power of two (4, 8, 16, 32, 64, 128, 256, 512, 1024)")
        return value

    @field_validator("background")
    @classmethod
    def _colour(cls, value: str) -> str:
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
            raise ValueError(f"{value!r} is not a colour such as '#ffffff'")
        return value.lower()

    @model_validator(mode="after")
    def _one_crop(self) -> "ImageRecipe":
        if self.crop_box is None:
            return self
        if self.crop_fraction != 1:
            raise ValueError("crop_fraction and crop_box exclude each other")
        left, top, right, bottom = self.crop_box
        if left >= right or top >= bottom:
            raise ValueError(f"crop_box {list(self.crop_box)} is empty: it is left, top, right, bottom")
        return self


class TextRecipe(Section):
    image_column: str = "image"  # of a CSV or JSONL
    caption_column: str | None = None  # None: caption, captions, description or text, whichever there is
    identity_column: str = "identity"  # used where the table has it
    min_count: int = Field(default=1, ge=1)  # rarer words are left out of the vocabulary
    max_words: int | None = Field(default=None, ge=1)  # the size of the vocabulary at most


class AudioRecipe(Section):
    image_column: str = "image"
    audio_column: str | None = None  # None: audio, speech, voice or path, whichever there is
    identity_column: str = "identity"
    sample_rate_hz: SampleRate = 16_000
    max_seconds: float = Field(default=10.0, gt=0, le=3_600)  # what is longer is cut


class SplitRecipe(Section):
    """The shares of identities, not of images, that are held back; or the sides that the corpus itself gives."""

    validation: Fraction = 0.05
    test: Fraction = 0.05
    given: bool = False  # of the layout hdf5: train, valid and test as in the file; the shares are then not used

    @model_validator(mode="after")
    def _something_left(self) -> "SplitRecipe":
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")
        return self


def _public(place: str) -> str:
    """A place that may stand in a manifest for all to read."""
    scheme, found, rest = place.lstrip().partition("://")
    if not found or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return place
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    web = scheme.lower() in ("http", "https")
    if "@" in host or (web and re.search(r"[?#]", rest)):
        kept = re.split(r"[?#]", rest.removeprefix(host), maxsplit=1)[0] if web else rest.removeprefix(host)
        raise ValueError(
            f"{scheme}://{host.rpartition('@')[2]}{kept}: a user, password or query in a URL would be kept in the"
            " manifest; leave it out, and give credentials by ~/.netrc or the environment, or fetch the file first"
        )
    return place


Place = Annotated[str, AfterValidator(_public)]  # a path or URL that is read or written


class CubRecipe(Section):
    embeddings: Place | None = None  # folder or .h5 file of the captions' embeddings; None: none are stored


class Hdf5Recipe(Section):
    embeddings: bool = True  # store those of the file; not where `embed` names a model


class CelebaRecipe(Section):
    identities: Place | None = None  # identity_CelebA.txt: rows of image and number of the person
    mapping: Place | None = None  # CelebA-HQ-to-CelebA-mapping.txt, where the images have the numbers of CelebA-HQ


class WebdatasetRecipe(Section):
    identity_field: str | None = None  # of a sample's .json; None: each sample is its own identity, by its key


# Layouts that hold images, captions or voices together, so that one path says all.
_TOGETHER: dict[str, str] = {"hdf5": "captions", "webdataset": "captions", "wav2pix": "speech"}
# Layouts with fields of their own, in the section of the same name.
_WITH_FIELDS = ("cub", "hdf5", "celeba", "webdataset")


# What says where the corpus stands and how its tables are read. All else shapes samples, or which side they are on.
_PLACES = [
    "layout",
    "faces",
    "captions",
    "speech",
    "embed",
    "samples_per_shard",
    "cub.embeddings",
    "celeba.identities",
    "celeba.mapping",
    "text.image_column",
    "text.caption_column",
    "text.identity_column",
    "audio.image_column",
    "audio.audio_column",
    "audio.identity_column",
    "webdataset.identity_field",
]


def flattened(recipe: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """A recipe's mapping with dotted keys: `{"image.resolution": 128, ...}`."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= flattened(value, f"{section}{key}.") if isinstance(value, Mapping) else {section + key: value}
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any], shaping: bool = False) -> list[str]:
    """Where two recipes differ, a `key old -> new` each; with `shaping`, only in what makes samples another kind.

    Of captions, voices and a sentence encoder, whether there are any does shape a sample; their paths do not.
    """
    old, new = flattened(before), flattened(now)
    found = []
    for key in dict.fromkeys([*old, *new]):
        one, other = old.get(key, "absent"), new.get(key, "absent")
        if shaping and key in _PLACES:
            given = key not in ("captions", "speech", "embed") or (one is None) == (other is None)
            if given:
                continue
        if one != other:
            found.append(f"{key} {shown(one)} -> {shown(other)}")
    return found


def shown(value: object) -> str:
    """A value as a recipe file writes it, cut where it is long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


class ShardRecipe(Section):
    """Paths are relative to the working directory; paths inside a table are relative to the table."""

    layout: Layout = "folder"
    faces: Place  # folder of images, searched through; of the layout hdf5 the file, of webdataset a folder or glob
    captions: Place | None = None  # Face2Text .json, .csv, .tsv, .jsonl, or a folder of .txt; celeba: attributes .txt
    speech: Place | None = None  # .csv, .tsv, .jsonl, or a folder of same-named audio files
    embed: str | None = None  # folder of a sentence-transformers model; captions are embedded with it
    out: Place
    # What may never stand on two sides of the split. "auto": the table's identity column, else the image's folder,
    # else its name. "column", "folder", "stem": that one only. Anything else: a regular expression searched in the
    # image's path, whose first group (or whole match) is the identity.
    identity: str = "auto"
    require: Literal["any", "captions", "speech", "both"] = "any"  # what an image must have, of what was given
    duplicates: Literal["count", "drop", "ignore"] = "count"  # images with the very bytes of another; drop keeps one
    samples_per_shard: int = Field(default=1000, ge=1, le=1 << 20)  # at most
    seed: int = Field(default=0, ge=0)  # of the order
    image: ImageRecipe = ImageRecipe()
    text: TextRecipe = TextRecipe()
    audio: AudioRecipe = AudioRecipe()
    split: SplitRecipe = SplitRecipe()
    cub: CubRecipe = CubRecipe()
    hdf5: Hdf5Recipe = Hdf5Recipe()
    celeba: CelebaRecipe = CelebaRecipe()
    webdataset: WebdatasetRecipe = WebdatasetRecipe()

    @property
    def brings_embeddings(self) -> bool:
        """Whether the corpus itself holds the embeddings of its captions, and they are to be stored."""
        return self.cub.embeddings is not None or (
            self.layout == "hdf5" and self.hdf5.embeddings and self.embed is None
        )

    @model_validator(mode="before")
    @classmethod
    def _together(cls, values: Any) -> Any:
        """What stands in the same place as the images is found there without being named."""
        kind = _TOGETHER.get(str(values.get("layout"))) if isinstance(values, dict) else None
        return values | {kind: values.get("faces")} if kind and values.get(kind) is None else values

    @field_validator("faces", "out")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value:
            raise ValueError("an empty path")
        return value

    @field_validator("identity")
    @classmethod
    def _identity(cls, value: str) -> str:
        if value in ("auto", "column", "folder", "stem"):
            return value
        if re.fullmatch(r"[a-z]+", value):
            raise ValueError(f"{value!r} is none of auto, column, folder, stem, nor a regular expression with a group")
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _of_the_layout(self) -> "ShardRecipe":
        for name in _WITH_FIELDS:
            section = getattr(self, name)
            if name != self.layout and section != type(section)():
                raise ValueError(f"the fields of {name} belong to the layout {name}, and layout is {self.layout!r}")
        if self.split.given and self.layout != "hdf5":
            raise ValueError(f"split.given is for the layout hdf5, whose file names the sides, not {self.layout!r}")
        if self.layout in ("hdf5", "webdataset"):
            if self.captions != self.faces:
                raise ValueError(f"the captions of the layout {self.layout} stand with its images; leave captions out")
            if self.speech is not None:
                raise ValueError(f"the layout {self.layout} has no voices; leave speech out")
        if self.layout == "wav2pix" and self.captions is not None:
            raise ValueError("the layout wav2pix has no captions; leave captions out, or use the layout folder")
        if self.layout in ("cub", "celeba") and self.captions is None:
            raise ValueError(f"the layout {self.layout} needs captions")
        if self.embed is not None and self.captions is None:
            raise ValueError("--embed needs captions, which it embeds: give captions too, or leave embed out")
        if self.embed is not None and self.cub.embeddings is not None:
            raise ValueError("embed and cub.embeddings exclude each other: one embedding a caption")
        return self

    @model_validator(mode="after")
    def _required_given(self) -> "ShardRecipe":
        if self.require in ("captions", "both") and self.captions is None:
            raise ValueError(f"require is {self.require!r}, but no captions are given")
        if self.require in ("speech", "both") and self.speech is None:
            raise ValueError(f"require is {self.require!r}, but no speech is given")
        return self
