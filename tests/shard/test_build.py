"""A whole build: the same bytes however it is made, and totals that add up whatever is put in."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from t2f_dist.config.load import dump
from t2f_dist.inspection.verify import verify
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.build import build
from t2f_dist.shard.manifest import SPLITS, Embedding, Manifest
from t2f_dist.text.sentence import SentenceEncoder
from t2f_dist.text.vocabulary import Vocabulary
from t2f_dist.text.words import words
from tests.sentence_model import model_folder
from tests.shard.raw import Corpus, draw, speak


def files(directory: Path) -> dict[str, bytes]:
    """Of all files below, the hidden ones too; a folder has no bytes."""
    found = sorted(directory.rglob("*"))
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"" for path in found}


def stored(directory: Path) -> dict[str, dict[str, bytes]]:
    """Source path -> members, split among them."""
    manifest = Manifest.load(directory)
    samples = {}
    for split in SPLITS:
        for shard in manifest.shards(split):
            descriptor = shard_format.open_shard(directory / shard.name, shard)
            for record in shard_format.open_index(directory / shard.index, shard):
                sample = shard_format.read_sample(descriptor, record)
                samples[json.loads(sample["meta"])["source"]] = sample | {"split": split.encode()}
            os.close(descriptor)
    return samples


def test_workers_change_nothing(corpus: Corpus, tmp_path: Path):
    speak(corpus.root / "speech/p00_0.wav", 0, rate=8_000)  # resampled: floating-point sums must not differ either
    draw(corpus.faces / "p01/p01_0.jpg", 1, size=(5, 5))
    one = build(corpus.recipe(tmp_path / "one"), workers=1, progress=False)
    two = build(corpus.recipe(tmp_path / "two"), workers=2, progress=False)
    assert len(one.shards("train")) > 2
    assert one.fingerprint == two.fingerprint
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_what_is_put_in_is_what_is_stored(corpus: Corpus, tmp_path: Path):
    build(corpus.recipe(tmp_path / "out"), workers=1, progress=False)
    found = stored(tmp_path / "out")
    voices = dict(corpus.voices)
    assert found.keys() == {row["image"] for row in corpus.rows}
    for row in corpus.rows:
        sample = found[row["image"]]
        assert sample["captions"].decode().splitlines() == [" ".join(text.split()) for text in row["captions"]]
        assert json.loads(sample["meta"])["identity"] == row["image"].split("/")[0]
        assert bool(sample["speech"]) == (row["image"] in voices)


def spoil(corpus: Corpus) -> tuple[set[str], Counter]:
    """Put in one of everything that goes wrong; returns the images that cannot be stored, and what is refused."""
    rows = corpus.rows
    (corpus.faces / rows[0]["image"]).write_bytes(b"")
    (corpus.faces / rows[2]["image"]).write_text("text in place of an image")
    whole = (corpus.faces / rows[4]["image"]).read_bytes()
    (corpus.faces / rows[4]["image"]).write_bytes(whole[: len(whole) // 2])
    draw(corpus.faces / rows[6]["image"], 1, size=(8, 30))
    gone = {rows[number]["image"] for number in (0, 2, 4, 6)}
    refused = Counter({("images", "rejected"): 4, ("captions", "rejected"): 8})
    refused["voices", "rejected"] = sum(image in gone for image, _ in corpus.voices)

    rows[10]["captions"] += ["", " \n", "...", None, 7]
    refused["captions", "rejected"] += 5
    rows[30]["captions"] = [" "]  # its voice, if any, is broken below: nothing is left of it
    refused["captions", "rejected"] += 1
    refused["images", "rejected"] += 1
    gone.add(rows[30]["image"])
    rows.append({"image": "nobody.png", "captions": ["who", "is it"]})
    rows.append({"image": "p99/p05_0", "captions": ["somebody else"]})
    refused["captions", "unmatched"] += 3
    draw(corpus.faces / "unnamed.png", 5)
    draw(corpus.faces / "more/unnamed.png", 6)
    refused["images", "unmatched"] += 2

    voices = [number for number, (image, _) in enumerate(corpus.voices) if image not in gone]
    broken = ["", "speech/nowhere.wav"]
    for audio in ("text", "empty"):
        broken.append(f"speech/{audio}.wav")
    (corpus.root / "speech/text.wav").write_text("text")
    soundfile.write(corpus.root / "speech/empty.wav", np.zeros(0), 16_000)
    for number, audio in zip(voices, broken):
        corpus.voices[number] = (corpus.voices[number][0], audio)
        refused["voices", "rejected"] += 1
    corpus.voices += [corpus.voices[voices[-1]], ("nobody.png", "speech/p00_0.wav")]
    refused["voices", "rejected"] += 1
    refused["voices", "unmatched"] += 1
    corpus.voices = [pair for pair in corpus.voices if pair[0] != rows[30]["image"]]
    corpus.write()
    return gone, refused


def test_totals_add_up_whatever_is_put_in(corpus: Corpus, tmp_path: Path):
    gone, refused = spoil(corpus)
    out = tmp_path / "out"
    manifest = build(corpus.recipe(out), workers=1, progress=False)
    found = stored(out)
    assert found.keys() == {row["image"] for row in corpus.rows} - gone - {"nobody.png", "p99/p05_0"}

    rows = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert Counter((row["kind"], row["status"]) for row in rows) == refused
    assert all(row["reason"] and row["image"] for row in rows)
    put_in = {
        "images": sum(1 for path in corpus.faces.rglob("*.*")),
        "captions": sum(len(row["captions"]) for row in corpus.rows),
        "voices": len(corpus.voices),
    }
    counted = {
        "images": len(found),
        "captions": sum(len(sample["captions"].splitlines()) for sample in found.values()),
        "voices": sum(bool(sample["speech"]) for sample in found.values()),
    }
    for kind, totals in manifest.totals.items():
        assert totals.found == put_in[kind]
        assert totals.stored == counted[kind]
        assert (totals.rejected, totals.unmatched) == (refused[kind, "rejected"], refused[kind, "unmatched"])
        assert totals.found == totals.stored + totals.rejected + totals.unmatched
    assert verify(out, decode=True, progress=False) == []


def test_the_vocabulary_is_that_of_train(corpus: Corpus, tmp_path: Path):
    out = tmp_path / "out"
    manifest = build(corpus.recipe(out), workers=1, progress=False)
    vocabulary = Vocabulary.from_json(manifest.read_vocabulary(out))
    said = {split: set() for split in SPLITS}
    for sample in stored(out).values():
        said[sample["split"].decode()] |= set(words(sample["captions"].decode()))
    assert set(vocabulary.words) == said["train"]
    assert said["test"] - said["train"]  # the numbers of the people there
    assert manifest.vocabulary is not None
    assert manifest.vocabulary.num_words == len(vocabulary.words)


def test_faces_alone(corpus: Corpus, tmp_path: Path):
    manifest = build(corpus.recipe(tmp_path / "out", captions=None, speech=None), workers=1, progress=False)
    assert manifest.vocabulary is None
    assert manifest.sample_rate_hz is None
    assert set(manifest.totals) == {"images"}
    assert {key for sample in stored(tmp_path / "out").values() for key, value in sample.items() if value} == {
        *("image", "meta", "split")
    }
    assert manifest.totals["images"].stored == len(corpus.rows)


def test_finished_shards_are_left_alone_unless_told(corpus: Corpus, tmp_path: Path):
    out = tmp_path / "out"
    build(corpus.recipe(out, samples_per_shard=3), workers=1, progress=False)
    before = files(out)
    with pytest.raises(FileExistsError, match="samples_per_shard 3 -> 8; --overwrite"):
        build(corpus.recipe(out), workers=1, progress=False)
    build(corpus.recipe(out, samples_per_shard=3), workers=1, progress=False)
    with pytest.raises(FileNotFoundError):  # found out before anything is removed
        build(corpus.recipe(out, captions="nowhere.json"), workers=1, overwrite=True, progress=False)
    assert files(out) == before
    build(corpus.recipe(out), workers=1, overwrite=True, progress=False)
    build(corpus.recipe(tmp_path / "fresh"), workers=1, progress=False)
    assert files(out) == files(tmp_path / "fresh")


def test_files_of_others_are_never_removed(corpus: Corpus, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("years")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"thesis\.tex"):
            build(corpus.recipe(tmp_path / "out"), workers=1, overwrite=overwrite, progress=False)


def test_no_usable_image_leaves_the_reasons_and_no_manifest(corpus: Corpus, tmp_path: Path):
    for row in corpus.rows:
        (corpus.faces / row["image"]).write_text("no image")
    with pytest.raises(ValueError, match=r"no usable sample in train.*unreadable image.*rejected\.jsonl"):
        build(corpus.recipe(tmp_path / "out"), workers=1, progress=False)
    assert list(files(tmp_path / "out")) == ["rejected.jsonl"]


def test_killed_and_begun_again_is_as_never_killed(corpus: Corpus, tmp_path: Path):
    """SIGKILL while two workers write; they leave with their parent, and the next run clears up."""
    out = tmp_path / "out"
    recipe = corpus.recipe(out, samples_per_shard=1)
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    command = [sys.executable, "-m", "t2f_dist.cli", "shard", str(tmp_path / "recipe.yaml"), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(out.glob("*.tar")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        children = _children(process.pid)
        process.send_signal(signal.SIGKILL)
    assert not (out / "manifest.json").exists()
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(_alive(child) for child in children)
    build(recipe, workers=1, progress=False)
    build(corpus.recipe(tmp_path / "fresh", samples_per_shard=1), workers=1, progress=False)
    assert files(out) == files(tmp_path / "fresh")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("captions", ["clean.json", "raw.json"])
def test_face2text_as_published(tmp_path: Path, captions: str):
    root = os.environ.get("T2F_REAL_DATA")
    if not root:
        pytest.skip("T2F_REAL_DATA does not name a folder with lfw/, face2text/ and pairs.csv")
    data = Path(root)
    recipe = Corpus(tmp_path / "none", people=0).recipe(
        tmp_path / "out",
        faces=str(data / "lfw"),
        captions=str(data / "face2text" / captions),
        speech=str(data / "pairs.csv"),
        identity="folder",
        image={"resolution": 32, "crop_fraction": 0.6},
        audio={"max_seconds": 0.5},
    )
    totals = build(recipe, workers=1, progress=False).totals
    texts = [
        description["text"]
        for entry in json.loads((data / "face2text" / captions).read_text())
        for description in entry["descriptions"]
    ]
    spoken = [text for text in texts if words(text)]
    assert totals["images"].model_dump() == {"found": 400, "stored": 400, "rejected": 0, "unmatched": 0}
    assert totals["voices"].stored == 400
    assert (totals["captions"].found, totals["captions"].stored) == (len(texts), len(spoken))
    assert sum(len(sample["captions"].splitlines()) for sample in stored(tmp_path / "out").values()) == len(spoken)


def test_embeddings_are_the_models_whatever_the_workers(tmp_path: Path):
    folder = model_folder()
    corpus = Corpus(tmp_path / "corpus", people=8)
    corpus.rows[0]["captions"] = []  # its voice is enough to keep it
    corpus.write()
    one = build(corpus.recipe(tmp_path / "one", embed=str(folder)), workers=1, progress=False)
    two = build(corpus.recipe(tmp_path / "two", embed=str(folder)), workers=2, progress=False)
    assert one.fingerprint == two.fingerprint
    assert files(tmp_path / "one") == files(tmp_path / "two")

    encoder = SentenceEncoder(folder)
    assert one.embedding is not None
    assert (one.embedding.size, one.embedding.sha256) == (encoder.size, encoder.sha256)
    found = stored(tmp_path / "one")
    for row in corpus.rows:
        sample = found[row["image"]]
        captions = shard_format.captions(sample["captions"])
        assert len(captions) == len(row["captions"])
        assert np.array_equal(shard_format.embeddings(sample["embeddings"]), encoder.encode(captions))
    assert verify(tmp_path / "one", decode=True, progress=False) == []


def test_a_model_that_cannot_embed_is_found_out_before_anything_is_removed(corpus: Corpus, tmp_path: Path):
    out = tmp_path / "out"
    build(corpus.recipe(out), workers=1, progress=False)
    before = files(out)
    with pytest.raises(FileNotFoundError, match="no such folder of a sentence encoder"):
        build(corpus.recipe(out, embed=str(tmp_path / "nowhere")), workers=1, overwrite=True, progress=False)
    with pytest.raises(ValueError, match="no sentence-transformers model"):
        build(corpus.recipe(out, embed=str(corpus.faces)), workers=1, overwrite=True, progress=False)
    assert files(out) == before


def write_hdf5(path: Path, size: int = 12) -> dict[str, np.ndarray]:
    """Twelve classes of two images with three captions each, in the layout hdf5; returns the embeddings by image."""
    random = np.random.Generator(np.random.Philox(key=7))
    arrays = {}
    with h5py.File(path, "w") as file:
        for number in range(24):
            name = f"image{number:02d}"
            draw(path.parent / f"{name}.png", number, size=(16, 16))
            content = (path.parent / f"{name}.png").read_bytes()
            arrays[name] = random.standard_normal((3, size), dtype=np.float32)
            for caption, values in enumerate(arrays[name]):
                group = file.create_group(f"train/{name}_{caption}")
                group["name"], group["class"] = name, f"class {number // 2}"
                group["img"], group["embeddings"] = np.void(content), values
                group["txt"] = "" if number == 5 and caption == 1 else f"bird {number} in words {caption}"
    arrays["image05"] = arrays["image05"][[0, 2]]
    return arrays


def test_embeddings_of_the_corpus_stay_with_their_captions(tmp_path: Path):
    arrays = write_hdf5(tmp_path / "birds.h5")
    fields = {"layout": "hdf5", "captions": None, "speech": None, "faces": str(tmp_path / "birds.h5")}
    corpus = Corpus(tmp_path / "none", people=0)
    manifest = build(corpus.recipe(tmp_path / "out", **fields), workers=1, progress=False)
    assert manifest.embedding == Embedding(size=12, model="", sha256="", source="corpus")
    found = stored(tmp_path / "out")
    assert found.keys() == arrays.keys()
    for name, sample in found.items():
        assert np.array_equal(shard_format.embeddings(sample["embeddings"]), arrays[name])
    assert verify(tmp_path / "out", decode=True, progress=False) == []

    recipe = corpus.recipe(tmp_path / "embedded", **fields, embed=str(model_folder()))
    other = build(recipe, workers=1, progress=False)
    assert other.embedding is not None
    assert (other.embedding.source, other.embedding.size) == ("model", 384)
    assert verify(tmp_path / "embedded", decode=True, progress=False) == []
