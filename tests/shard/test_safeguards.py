"""What a build never takes the place of, never believes, and never leaves unsaid."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from t2f_dist.config.load import resolve
from t2f_dist.config.recipe import ImageRecipe, ShardRecipe
from t2f_dist.shard import build as build_module
from t2f_dist.shard.build import ShardsFailed, build, make
from t2f_dist.shard.corpus import CAPTIONS_MAX, plan
from t2f_dist.shard.ledger import FOLDER, Ledger, Superseded
from t2f_dist.shard.manner import Manner
from t2f_dist.shard.outcome import Outcome
from t2f_dist.shard.sources import File
from t2f_dist.shard.task import Job, tasks
from t2f_dist.shard.versions import made_with
from tests.shard.raw import Corpus, draw, planned, reasons
from tests.shard.test_build import files, stored, write_hdf5

QUIET = Manner(progress=False)


@pytest.fixture
def small(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus", people=6)


def test_shards_that_nothing_proves_to_be_ours_stay(small: Corpus, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-000000.tar").write_bytes(b"of somebody else")
    with pytest.raises(FileExistsError, match=r"holds train-000000\.tar, .*--overwrite replaces them") as error:
        make(small.recipe(out), QUIET)
    assert "\n" not in str(error.value)
    assert list(files(out)) == ["train-000000.tar"]
    make(small.recipe(out), Manner(overwrite=True, progress=False))
    build(small.recipe(tmp_path / "fresh"), workers=1, progress=False)
    assert files(out) == files(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "webdataset", "faces": "OUT"}, "is or holds .*/data"),
        ({"layout": "webdataset", "faces": "OUT/train-{000000..000009}.tar"}, "is or holds .*/data"),
        ({"faces": "OUT/faces"}, "is or holds .*/data/faces"),
        ({"faces": "LINK/faces", "captions": "LINK/rejected.jsonl"}, "is or holds .*/link/faces"),
    ],
)
def test_a_source_is_never_the_place_of_the_shards(tmp_path: Path, fields: dict, message: str):
    (tmp_path / "data/faces").mkdir(parents=True)
    (tmp_path / "data/train-000000.tar").write_bytes(b"the only copy")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    places = {"OUT": str(tmp_path / "data"), "LINK": str(tmp_path / "link")}
    for name, place in places.items():
        fields = {key: value.replace(name, place) for key, value in fields.items()}
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=message):
            make(ShardRecipe(**fields, out=places["OUT"]), Manner(overwrite=overwrite, progress=False))
    assert (tmp_path / "data/train-000000.tar").read_bytes() == b"the only copy"


def test_shards_are_not_replaced_by_nothing(small: Corpus, tmp_path: Path):
    out = tmp_path / "out"
    build(small.recipe(out), workers=1, progress=False)
    before = files(out)
    with pytest.raises(ValueError, match=r"nothing is removed; p\S+: 40x40 pixels"):
        build(small.recipe(out, image={"resolution": 64}), workers=1, overwrite=True, progress=False)
    assert files(out) == before


def test_what_others_put_there_meanwhile_is_left_alone(small: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"

    def meanwhile(*arguments: Any) -> Iterator[Any]:
        yield from run(*arguments)
        for name in ("sheet.png", ".nfs00000000001", ".x.tar.7-ab.tmp", f"{FOLDER}/notes.txt"):
            (out / name).write_text("mine")

    run = build_module.engine.run
    monkeypatch.setattr(build_module.engine, "run", meanwhile)
    assert make(small.recipe(out), QUIET).manifest
    assert sum(content == b"mine" for content in files(out).values()) == 4
    with pytest.raises(FileExistsError, match=r"holds \.build/notes\.txt"):
        make(small.recipe(out), QUIET)
    (out / FOLDER / "notes.txt").unlink()
    (out / "sheet.png").unlink()
    assert "nothing to do" in make(small.recipe(out), QUIET).note


def test_a_shard_that_was_changed_by_another_is_found_at_the_end(
    small: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"

    def meanwhile(*arguments: Any) -> Iterator[Any]:
        yield from run(*arguments)
        (out / "train-000000.small").unlink()

    run = build_module.engine.run
    with monkeypatch.context() as changed:
        changed.setattr(build_module.engine, "run", meanwhile)
        with pytest.raises(ShardsFailed, match="1 of . shards were changed or removed by another"):
            make(small.recipe(out), QUIET)
    assert not (out / "manifest.json").exists()
    assert make(small.recipe(out), QUIET).written == 1


def test_a_build_that_another_has_replaced_ends(small: Corpus, tmp_path: Path):
    old, new = small.recipe(tmp_path / "out", image={"resolution": 8}), small.recipe(tmp_path / "out")
    maker = Job(old, None, "an older build").open()
    task = next(tasks(plan(old).splits, 8, {"train": 0, "validation": 0, "test": 0}))
    make(new, Manner(part=(0, 2), progress=False))
    with pytest.raises(Superseded, match="another one was begun"):
        maker.make(task, lambda: None)
    assert not (tmp_path / "out/train-000000.tar").exists(), "the newer build makes it again"
    make(new, QUIET)
    whole = files(tmp_path / "out")
    ledger = Ledger(new.out)
    manifest = make(new, QUIET).manifest
    assert manifest is not None
    ledger.record("train-000000", "x", Outcome(manifest.shards("train")[0]))  # the same shard: all is well
    with pytest.raises(Superseded):
        ledger.record("train-000000", "x", Outcome(manifest.shards("train")[0].model_copy(update={"sha256": "0" * 64})))
    assert files(tmp_path / "out") == whole


def test_duplicates_are_part_of_what_a_build_is(small: Corpus, tmp_path: Path):
    recipe = small.recipe(tmp_path / "out", samples_per_shard=2, duplicates="drop")
    make(recipe, Manner(part=(0, 2), progress=False))
    path = tmp_path / "out" / FOLDER / "duplicates.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"duplicates": {small.rows[1]["image"]: small.rows[0]["image"]}}))
    with pytest.raises(FileExistsError, match="another state: its .*duplicates changed; .*--overwrite"):
        make(recipe, QUIET)
    path.write_text("{")  # what is damaged is found anew
    assert make(recipe, QUIET).manifest


def test_an_error_of_the_system_is_not_taken_for_a_difference(
    small: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(file: File) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    shutil.copy(small.faces / small.rows[0]["image"], small.faces / small.rows[2]["image"])
    monkeypatch.setattr(File, "read", fail)
    with pytest.raises(OSError, match=r"p0\S+: Input/output error, while duplicates"):
        make(small.recipe(tmp_path / "out"), QUIET)


def test_what_was_found_is_counted_apart(small: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A sample that is lost on the way makes no manifest."""
    small.rows[0]["captions"].append("")
    (small.faces / small.rows[2]["image"]).write_text("no image")
    small.write()
    outcomes = Ledger.outcomes

    def lose(*arguments: Any) -> Iterator[Outcome | None]:
        for outcome in outcomes(*arguments):
            if outcome:
                outcome.refusals.clear()
            yield outcome

    monkeypatch.setattr(Ledger, "outcomes", lose)
    with pytest.raises(ValueError, match="is not stored"):
        make(small.recipe(tmp_path / "out"), QUIET)
    assert not (tmp_path / "out/manifest.json").exists()


def test_other_embeddings_of_a_corpus_are_another_corpus(tmp_path: Path):
    write_hdf5(tmp_path / "birds.h5")
    recipe = Corpus(tmp_path / "none", people=0).recipe(
        tmp_path / "out", layout="hdf5", captions=None, speech=None, faces=str(tmp_path / "birds.h5")
    )
    make(recipe, QUIET)
    os.utime(tmp_path / "birds.h5", (1, 1))
    assert "nothing to do" in make(recipe, QUIET).note
    with h5py.File(tmp_path / "birds.h5", "a") as file:
        file["train/image03_1/embeddings"][:] = 0
    with pytest.raises(FileExistsError, match="another corpus: 1 changed .such as 'image03'"):
        make(recipe, QUIET)
    with h5py.File(tmp_path / "birds.h5", "a") as file:
        for caption in range(3):
            del file[f"train/image07_{caption}/img"]
            file[f"train/image07_{caption}/img"] = np.void(b"another length")
    with pytest.raises(FileExistsError, match="another corpus: 2 changed"):
        make(recipe, QUIET)


def test_names_that_are_not_utf8_are_refused_with_their_reason(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=3)
    draw(corpus.faces / "p00/good.png", 5)
    os.rename(corpus.faces / "p00/good.png", os.fsencode(corpus.faces) + b"/p00/b\xe9.png")
    out = tmp_path / "out"
    recipe = corpus.recipe(out, captions=None, speech=None, split={"validation": 0, "test": 0})
    assert make(recipe, QUIET).manifest
    assert len(stored(out)) == 6
    assert "a name that is not UTF-8" in (out / "rejected.jsonl").read_text()
    assert "nothing to do" in make(recipe, QUIET).note


def test_captions_beyond_a_thousand_are_refused(tmp_path: Path):
    corpus = Corpus(tmp_path / "corpus", people=1)
    corpus.rows[0]["captions"] = [f"caption {number}" for number in range(CAPTIONS_MAX + 2)]
    corpus.write()
    found, entries = planned(faces=str(corpus.faces), captions=str(corpus.root / "captions.jsonl"))
    assert len(entries["p00/p00_0.jpg"].captions) == CAPTIONS_MAX
    assert reasons(found, "captions") == {"p00/p00_0.jpg": "its image has 1000 captions already"}


@pytest.mark.parametrize("value", ["a::b.wav", "line\\n.wav", "nul\\u0000.wav", "x" * 5000 + ".wav", "sur\\ud800.wav"])
def test_a_voice_with_a_path_that_none_can_have_costs_its_row(tmp_path: Path, value: str):
    corpus = Corpus(tmp_path / "corpus", people=1)
    path = json.loads(f'"{value}"')
    (corpus.root / "speech.jsonl").write_text(json.dumps({"image": "p00/p00_0.jpg", "audio": path}))
    found, _ = planned(
        faces=str(corpus.faces), captions=str(corpus.root / "captions.jsonl"), speech=str(corpus.root / "speech.jsonl")
    )
    assert reasons(found, "voices") == {
        "p00/p00_0.jpg": "a path that is not UTF-8" if "ud8" in value else "no such file"
    }


@pytest.mark.parametrize("place", ["https://me:secret@host/x.csv", "http://host/x?X-Sign=secret", "s3://secret@b/x"])
@pytest.mark.parametrize("key", ["captions", "faces", "out", "celeba.identities"])
def test_a_recipe_keeps_no_secrets(place: str, key: str):
    fields: dict[str, Any] = {"layout": "celeba", "faces": "f", "captions": "c", "out": "o"}
    with pytest.raises(ValueError, match="would be kept in the manifest; leave it out, and give") as error:
        resolve(ShardRecipe, fields, [f"{key}={place}"])
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_versions_are_of_all_that_decides_about_bytes():
    fields: dict[str, Any] = {"faces": "f", "out": "o"}
    plain = made_with(ShardRecipe(**fields))
    assert plain.keys() == {"t2f-dist", "Pillow", "libjpeg"}
    more = made_with(ShardRecipe(**fields, captions="c", speech="s", embed="m", image=ImageRecipe(format="png")))
    wanted = {"zlib", "soundfile", "libsndfile", "torch", "torchaudio", "transformers", "tokenizers"}
    assert more.keys() - plain.keys() == wanted | {"sentence-transformers"}
    assert all(isinstance(value, str) for value in plain.values())
