"""Tars of others and how they are read: the one model that the flags and the recipe files of `t2f-dist index` fill."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from t2f_dist.config.load import Section
from t2f_dist.config.recipe import ImageRecipe, SplitRecipe

WORDS_MAX = 1_000_000  # of a vocabulary; each is a row of an embedding


class WordsRecipe(Section):
    min_count: int = Field(default=1, ge=1)  # rarer words of train are left out of the vocabulary
    max_words: int | None = Field(default=None, ge=1, le=WORDS_MAX)  # the vocabulary's size at most; None: WORDS_MAX


class IndexRecipe(Section):
    """Paths are relative to the working directory."""

    tars: Annotated[tuple[str, ...], Field(min_length=1)]  # files, folders, globs, patterns with braces, or URLs
    out: str
    levels: bool = True  # decode each image once, and keep its small levels of detail
    captions: str = "txt"  # the text file, else `caption` of the JSON or the table; or a field of those
    identity: str | None = None  # a field of the JSON; None: each sample is its own, by folder, tar and key
    image: ImageRecipe = ImageRecipe()  # what is done on reading; format, quality and pass_through say nothing here
    text: WordsRecipe = WordsRecipe()
    split: SplitRecipe = SplitRecipe()

    @field_validator("out", "captions", "identity")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("an empty name")
        return value

    @model_validator(mode="after")
    def _by_shares(self) -> "IndexRecipe":
        if self.split.given:
            raise ValueError("split.given is for the layout hdf5, whose file names the sides; tars name none")
        return self
