"""A small raw corpus, made on the spot: noise for faces, tones for voices."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.shard.corpus import Entry, Plan, plan

SIDE = 40
PEOPLE = 20
PHOTOS = 2


def draw(path: Path, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.Generator(np.random.Philox(key=seed)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def speak(path: Path, seed: int, rate: int = 16_000, seconds: float = 0.05, channels: int = 1) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * (200 + 20 * seed) * times)
    pcm = np.rint(np.repeat(wave[:, None], channels, axis=1) * 32767).astype(np.int16)
    soundfile.write(path, pcm, rate, subtype="PCM_16")
    return pcm


def encoded(seed: int, format: str = "PNG", size: tuple[int, int] = (SIDE, SIDE)) -> bytes:  # noqa: A002
    """The bytes of an image file: the noise of `draw`."""
    pixels = np.random.Generator(np.random.Philox(key=seed)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def planned(**fields) -> tuple[Plan, dict[str, Entry]]:
    """The plan of a recipe, and its entries by path; asserts that everything found is in an entry or refused."""
    everything = {"out": "unused", "image": {"resolution": 16}, "split": {"validation": 0, "test": 0}}
    found = plan(ShardRecipe(**everything | fields))
    entries = {entry.path: entry for side in found.splits.values() for entry in side}
    counts = Counter(refusal.kind for refusal in found.refusals)
    for entry in entries.values():
        counts.update(images=1, captions=len(entry.captions), voices=int(entry.voice is not None))
    assert found.found == counts
    assert all(refusal.reason and refusal.image for refusal in found.refusals)
    return found, entries


def reasons(found: Plan, kind: str) -> dict[str, str]:
    """Image -> why something of that kind was refused."""
    return {refusal.image: refusal.reason for refusal in found.refusals if refusal.kind == kind}


class Corpus:
    """A folder of faces, one folder a person, with captions.jsonl and speech.csv beside it."""

    def __init__(self, root: Path, people: int = PEOPLE):
        self.root = root
        self.faces = root / "faces"
        self.faces.mkdir(parents=True, exist_ok=True)
        self.rows = []
        self.voices = []
        for person in range(people):
            for photo in range(PHOTOS):
                name = f"p{person:02d}/p{person:02d}_{photo}.{'png' if photo else 'jpg'}"
                draw(self.faces / name, person * PHOTOS + photo)
                self.rows.append(
                    {"image": name, "captions": [f"person {person} smiles", f"Photo {photo}, dark\thair."]}
                )
                if person % 4 != 3:
                    speak(root / f"speech/p{person:02d}_{photo}.wav", person)
                    self.voices.append((name, f"speech/p{person:02d}_{photo}.wav"))
        self.write()

    def write(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.rows)
        (self.root / "captions.jsonl").write_text(lines)
        rows = "".join(f"{image},{audio}\n" for image, audio in self.voices)
        (self.root / "speech.csv").write_text("image,audio\n" + rows)

    def recipe(self, out: Path, **changes) -> ShardRecipe:
        fields = {
            "faces": str(self.faces),
            "captions": str(self.root / "captions.jsonl"),
            "speech": str(self.root / "speech.csv"),
            "out": str(out),
            "samples_per_shard": 8,
            "image": {"resolution": 16},
            "split": {"validation": 0.2, "test": 0.2},
        }
        return ShardRecipe(**fields | changes)
