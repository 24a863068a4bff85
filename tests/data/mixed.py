"""Small shards in which samples have a caption, a voice, both or neither, and say themselves which sample they are."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from t2f_dist.data.order import Place
from t2f_dist.shard import format as shard_format
from t2f_dist.shard import levels
from t2f_dist.shard.manifest import (
    REJECTED,
    VOCABULARY,
    Embedding,
    Manifest,
    RejectedFile,
    Split,
    SplitName,
    Totals,
    VocabularyFile,
    digest,
    shard_name,
)
from t2f_dist.shard.writer import Sample, write_shard
from t2f_dist.text.vocabulary import Vocabulary

RATE = 1000
SIDE = 8
WORDS = tuple(f"w{number}" for number in range(40))
SHARD = 12  # samples
NUM_SHARDS = 4
PEOPLE = 9  # in the training split


@dataclass(frozen=True)
class Face:
    """One sample, by its number in all of the splits."""

    number: int

    @property
    def captions(self) -> tuple[str, ...]:
        """None of every fourth. The words of near numbers overlap."""
        first = self.number % 30
        text = " ".join(WORDS[first : first + 6])
        return () if self.number % 4 == 3 else (text, f"{text} {WORDS[-1]}", f"{WORDS[-1]} {text}")

    @property
    def voice(self) -> np.ndarray:
        """int16 [T]: whose it is (all but the last ten bits), and where in it. None of every third."""
        length = 0 if self.number % 3 == 1 else 300 + 10 * self.number
        return (self.number * 512 + np.arange(length)).astype(np.int16)

    @property
    def embeddings(self) -> np.ndarray:
        """float32 [captions, 2]: the sample, the caption."""
        return np.array([(self.number, row) for row in range(len(self.captions))], np.float32).reshape(-1, 2)

    @property
    def image(self) -> np.ndarray:
        """uint8 [8, 8, 3]: one grey that says which sample it is, brighter on its right half."""
        pixels = np.full((SIDE, SIDE, 3), 3 * self.number, np.uint8)
        pixels[:, SIDE // 2 :] += 60
        return pixels

    @property
    def sample(self) -> Sample:
        voice, png = io.BytesIO(), io.BytesIO()
        Image.fromarray(self.image).save(png, "PNG")
        if len(self.voice):
            soundfile.write(voice, self.voice, RATE, format="FLAC", subtype="PCM_16")
        return Sample(
            key=f"face-{self.number}",
            identity=f"person {self.person}",
            image=png.getvalue(),
            levels=levels.record(Image.fromarray(self.image)),
            captions=self.captions,
            meta={"identity": f"person {self.person}"},
            speech=voice.getvalue() or None,
            speech_samples=len(self.voice),
            embeddings=self.embeddings,
        )

    @property
    def person(self) -> int:
        """Those of the validation split begin at 100, save the first, who is in the training split too."""
        held_out = self.number - SHARD * NUM_SHARDS
        return self.number % PEOPLE if held_out <= 0 else 100 + held_out


class Rare(Face):
    """A voice of every twentieth alone: one in each of the first two shards of twelve, none in the others."""

    @property
    def voice(self) -> np.ndarray:
        return super().voice if self.number % 20 == 0 else np.zeros(0, np.int16)


def faces(place: Place) -> Face:
    """Of the training split."""
    return Face(place.shard * SHARD + place.row)


def write(folder: Path, kind: type[Face] = Face, with_levels: bool = True) -> Path:
    """4 shards of 12 samples to train on, one of 6 to validate."""
    folder.mkdir()
    text = Vocabulary(WORDS).to_json().encode()
    (folder / VOCABULARY).write_bytes(text)
    splits: dict[SplitName, Split] = {}
    number = 0
    for split, counts in (("train", [SHARD] * NUM_SHARDS), ("validation", [6])):
        shards = []
        for which, count in enumerate(counts):
            samples = [kind(number + row).sample for row in range(count)]
            samples = samples if with_levels else [replace(sample, levels=b"") for sample in samples]
            number += count
            name = shard_name(split, which)
            shard = write_shard(folder / name, iter(samples), "png", with_speech=True, with_embeddings=True)
            assert shard is not None
            shards.append(shard)
        splits[split] = Split(num_samples=sum(counts), shards=tuple(shards))
    totals = Totals(found=number, stored=number, rejected=0, unmatched=0)
    Manifest(
        recipe={},
        image_resolution=SIDE,
        image_format="png",
        sample_rate_hz=RATE,
        vocabulary=VocabularyFile(file=VOCABULARY, sha256=digest(text), num_words=len(WORDS)),
        embedding=Embedding(size=2, model="", sha256="", source="corpus"),
        rejected=RejectedFile(file=REJECTED, sha256=digest(b"")),
        splits=splits,
        totals={"images": totals},
    ).save(folder)
    return folder


def damage(folder: Path, place: Place, member: str) -> str:
    """Flip a bit of a member; of captions, of the copy that is read. The name of its shard."""
    shard = Manifest.load(folder).shards("train")[place.shard]
    record = shard_format.open_index(folder / shard.index, shard)[place.row]
    name, offset = shard.name, int(record[f"{member}_offset"]) + 40
    if member == "lod":  # its first level
        name, offset = shard.small, int(record["lod_offset"]) + levels.HEADER_BYTES
    elif member == "captions":
        name, offset = shard.small, int(record["lod_offset"] + record["lod_length"])
    with open(folder / name, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    return shard.name
