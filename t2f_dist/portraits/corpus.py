"""Writes a corpus of portraits as a folder, laid out as people lay out such corpora:

    D/faces/000/000000.png      one picture a portrait, a folder a thousand
    D/captions.jsonl            {"image": "faces/000/000000.png", "captions": [...], "identity": "..."} a line
    D/speech/000/000000.flac    one voice a portrait: mono, 16 bit
    D/speech.csv                image,audio: paths relative to the file, as in captions.jsonl
    D/attributes.jsonl          {"image": ..., "<attribute>": "<value>", ...} a line: the truth, for tests
    D/README.txt, D/corpus.json the latter written last: what was drawn

Portraits are drawn by index, so the bytes do not depend on the number of workers, and a larger corpus of the same
seed begins with the smaller one. The folder appears under its name only when it is complete.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import soundfile
from PIL import Image
from tqdm import tqdm

from t2f_dist.portraits.attributes import ATTRIBUTES, portrait, stream
from t2f_dist.portraits.captions import captions
from t2f_dist.portraits.draw import draw
from t2f_dist.portraits.voice import speak

MARKER = "corpus.json"
FORMAT = "t2f-dist portraits"
VERSION = 1
FOLDER = 1000  # portraits a folder
CAPTIONS_EACH = 5
RANGE = 50  # portraits a task of a worker

_README = """A corpus of {num} portraits drawn by t2f-dist, {resolution} x {resolution} pixels, seed {seed}.

faces/             the portraits (PNG)
captions.jsonl     {captions_each} captions each, and the identity: the combination of attributes
{voices}attributes.jsonl   what was drawn

Nobody is depicted: face, caption and voice are functions of the seed and the index. Captions name each attribute with
a probability of .85, the beard only of men, the hair colour never of the bald.
"""
_README_VOICES = """speech/            a voice each, {sample_rate_hz} Hz, that agrees with the face
speech.csv         whose voice is whose
"""


@dataclass(frozen=True)
class Corpus:
    """What a corpus is a function of: the same values, the same bytes."""

    num: int
    resolution: int
    seed: int
    voices: bool
    captions_each: int
    sample_rate_hz: int

    def marker(self) -> str:
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n"


Task = tuple[Path, Corpus, int, int]  # folder, corpus, start, stop
Lines = tuple[list[str], list[str]]  # of captions.jsonl and attributes.jsonl


def write_corpus(
    out: Path | str,
    num: int,
    resolution: int,
    seed: int = 0,
    workers: int = 1,
    voices: bool = True,
    captions_each: int = CAPTIONS_EACH,
    sample_rate_hz: int = 16000,
    overwrite: bool = False,
    progress: bool = True,
) -> bool:
    """Draw `num` portraits into the folder `out`. True when they were drawn, False when `out` held them already.

    workers: processes; 1 draws in this one. They change the speed and nothing else.
    progress: show a bar.

    Raises ValueError when a number is out of range, or when `out` holds anything else and `overwrite` is not set.
    """
    out = Path(out)
    limits = {"num": (num, 1), "resolution": (resolution, 8), "workers": (workers, 1)}
    limits |= {"captions_each": (captions_each, 1), "sample_rate_hz": (sample_rate_hz, 2000)}
    for name, (value, least) in limits.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    stream(seed, "portrait", num)  # refuses a seed out of range before anything is written
    corpus = Corpus(num, resolution, seed, voices, captions_each, sample_rate_hz)
    if out.exists() and not overwrite:
        if _recognised(out, corpus):
            return False
        remedy = "choose another folder" + (", or replace it with --overwrite" if (out / MARKER).is_file() else "")
        raise ValueError(f"{out} holds {_described(out)}: {remedy}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose another folder")
    if overwrite and out.exists() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise ValueError(f"{out} is not a corpus of portraits and will not be overwritten: choose another folder")
    with _unfinished(out) as folder:
        _write(folder, corpus, workers, progress)
        (folder / MARKER).write_text(corpus.marker())
    return True


def _recognised(out: Path, corpus: Corpus) -> bool:
    marker = out / MARKER
    return marker.is_file() and marker.read_text() == corpus.marker()


def _described(out: Path) -> str:
    if not out.is_dir() or not (out / MARKER).is_file():
        return "something else than a finished corpus of portraits"
    try:
        content = json.loads((out / MARKER).read_text())
        values = ", ".join(f"{name} {content[name]}" for name in ("num", "resolution", "seed", "voices"))
        return f"another corpus ({values})"
    except (ValueError, KeyError, TypeError):
        return "a corpus of another version"


@contextmanager
def _unfinished(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name, and its place, when the block ends well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent))
    try:
        folder = room / "new"
        folder.mkdir()
        yield folder
        if out.exists():
            out.rename(room / "old")
        folder.rename(out)
    finally:
        shutil.rmtree(room)


def _write(folder: Path, corpus: Corpus, workers: int, progress: bool) -> None:
    for start in range(0, corpus.num, FOLDER):
        (folder / "faces" / f"{start // FOLDER:03d}").mkdir(parents=True)
        if corpus.voices:
            (folder / "speech" / f"{start // FOLDER:03d}").mkdir(parents=True)
    tasks = [(folder, corpus, start, min(start + RANGE, corpus.num)) for start in range(0, corpus.num, RANGE)]
    with (
        _mapped(min(workers, len(tasks)), tasks) as results,
        open(folder / "captions.jsonl", "w", encoding="utf-8") as captions_file,
        open(folder / "attributes.jsonl", "w", encoding="utf-8") as attributes_file,
        tqdm(total=corpus.num, desc="drawing portraits", unit="portrait", disable=not progress) as bar,
    ):
        for caption_lines, attribute_lines in results:
            captions_file.writelines(caption_lines)
            attributes_file.writelines(attribute_lines)
            bar.update(len(caption_lines))
    if corpus.voices:
        pairs = (f"{_path('faces', index, 'png')},{_path('speech', index, 'flac')}\n" for index in range(corpus.num))
        (folder / "speech.csv").write_text("image,audio\n" + "".join(pairs))
    voices = _README_VOICES.format(sample_rate_hz=corpus.sample_rate_hz) if corpus.voices else ""
    (folder / "README.txt").write_text(_README.format(**{**asdict(corpus), "voices": voices}))


@contextmanager
def _mapped(workers: int, tasks: list[Task]) -> Iterator[Iterator[Lines]]:
    """The results of the tasks, in order."""
    if workers == 1:
        yield map(_draw_range, tasks)
        return
    # spawned, not forked: the caller may hold threads, and a worker needs nothing of it
    with multiprocessing.get_context("spawn").Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        yield pool.imap(_draw_range, tasks)


def _path(folder: str, index: int, suffix: str) -> str:
    return f"{folder}/{index // FOLDER:03d}/{index:06d}.{suffix}"


def _draw_range(task: Task) -> Lines:
    """Writes pictures and voices of the portraits start...stop-1; returns their lines of the two tables."""
    folder, corpus, start, stop = task
    caption_lines, attribute_lines = [], []
    for index in range(start, stop):
        person = portrait(corpus.seed, index)
        image = _path("faces", index, "png")
        Image.fromarray(draw(person, corpus.resolution)).save(folder / image)
        if corpus.voices:
            flac = io.BytesIO()
            soundfile.write(flac, speak(person, corpus.sample_rate_hz), corpus.sample_rate_hz, "PCM_16", format="FLAC")
            (folder / _path("speech", index, "flac")).write_bytes(flac.getbuffer())
        sentences = captions(person, corpus.seed, corpus.captions_each)
        caption_lines.append(json.dumps({"image": image, "captions": sentences, "identity": person.identity}) + "\n")
        values = {name: person.attributes[name] for name in ATTRIBUTES if not (name == "hair_colour" and person.bald)}
        attribute_lines.append(json.dumps({"image": image, **values}) + "\n")
    return caption_lines, attribute_lines
