"""Sampling for and evaluating on shards that stand elsewhere, and on tars of others behind an index."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from t2f_dist.models import snapshot
from t2f_dist.portraits.corpus import write_corpus
from t2f_dist.shard.manifest import Manifest
from tests.evaluation.test_commands import assert_refused, run
from tests.evaluation.test_portraits import faces_of
from tests.shard.img2dataset import write
from tests.shard.test_index import indexed
from tests.web import Web, served

SHARDS = 6  # of train


@pytest.fixture
def web(portrait_shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Web]:
    """With the portraits on it, and a home folder where nothing was cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    with served() as web:
        web.put_folder(portrait_shards)
        yield web


@pytest.fixture
def room(portrait_shards: Path) -> int:
    """Bytes of the largest shard."""
    listed = Manifest.load(portrait_shards).shards("train")
    assert len(listed) == SHARDS
    return max(shard.bytes + shard.index_bytes + shard.small_bytes for shard in listed)


def saved(folder: Path, shards: Path, *overrides: str) -> Path:
    snapshot.save(folder / "faces.safetensors", faces_of(shards, *overrides, recipe="both"))
    return folder / "faces.safetensors"


def cached(folder: Path) -> int:
    """Bytes of whole files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def test_a_cache_of_one_shard_is_enough(portrait_shards: Path, web: Web, room: int, tmp_path: Path):
    path, place = saved(tmp_path, portrait_shards), f"{web.url}/{portrait_shards.name}"
    options = ["--cache-dir", tmp_path / "cache", "--cache-bytes", room]
    arguments = [path, "--split", "train", "--num", 1000, "--by", "speech", "--shards"]
    evaluated = run("evaluate", *arguments, place, *options)
    assert evaluated.exit_code == 0, evaluated.output
    num = Manifest.load(portrait_shards).num_samples("train")
    assert f": {num} samples of the train split of {place}" in evaluated.stdout
    assert room // 2 < cached(tmp_path / "cache") <= room
    draw = ["sample", path, "--split", "train", "--rows", 200, "--num", 1, "--shards", place, *options]
    assert run(*draw, "--out", f"{tmp_path}/faces/").exit_code == 0
    assert len(list((tmp_path / "faces").iterdir())) == num
    assert sum(times for name, times in web.gets.items() if name.endswith(".tar") and "train" in name) >= 2 * SHARDS - 1
    assert not (tmp_path / "home").exists()


def test_neither_a_server_nor_a_folder_is_touched_because_a_snapshot_names_it(
    portrait_shards: Path, web: Web, tmp_path: Path
):
    place = f"{web.url}/{portrait_shards.name}"
    named = (f"data.shards={place}?token=CANARY", f"data.cache_dir={tmp_path}/strangers")
    path = saved(tmp_path, portrait_shards, *named)
    refused = run("evaluate", path, "--num", 4, "--by", "speech")
    assert_refused(refused, f"the snapshot says that it was trained on {place}: give --shards")
    assert "CANARY" not in refused.output
    assert not web.gets, "no request"
    asked = run("evaluate", path, "--num", 4, "--by", "speech", "--shards", f"{place}?token=CANARY")
    assert asked.exit_code == 0, asked.output
    assert "CANARY" not in asked.output
    assert cached(tmp_path / "home/t2f-dist/shards") > 0
    assert not (tmp_path / "strangers").exists()
    local = saved(tmp_path, portrait_shards, f"data.shards={portrait_shards}")
    evaluated = run("evaluate", local, "--num", 4, "--by", "speech")
    assert evaluated.exit_code == 0, evaluated.output
    assert f"shards: {portrait_shards}, as the snapshot says" in evaluated.stderr


def test_a_cache_that_cannot_be_is_named(portrait_shards: Path, web: Web, tmp_path: Path):
    plain, place = saved(tmp_path, portrait_shards), f"{web.url}/{portrait_shards.name}"
    (tmp_path / "file").touch()
    refused = run("evaluate", plain, "--shards", place, "--cache-dir", tmp_path / "file")
    assert_refused(refused, f"{tmp_path}/file cannot be the cache")
    assert "--cache-dir" in refused.stderr


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of one tar of portraits, of 48x32 pixels and 64x64: squares of 32 of them are the portraits."""
    folder = tmp_path_factory.mktemp("foreign")
    write_corpus(folder / "corpus", num=60, resolution=32, seed=4, workers=1, captions_each=1, voices=False)
    members = []
    for number, line in enumerate((folder / "corpus/captions.jsonl").read_text().splitlines()):
        row, stream = json.loads(line), io.BytesIO()
        with Image.open(folder / "corpus" / row["image"]) as portrait:
            drawn = Image.new("RGB", (48, 32), "red")
            drawn.paste(portrait, (8, 0))
            drawn = portrait.resize((64, 64), Image.Resampling.NEAREST) if number % 2 else drawn
            drawn.save(stream, "WEBP", lossless=True)
        key = f"{number:04d}"
        members += [(f"{key}.webp", stream.getvalue()), (f"{key}.txt", row["captions"][0].encode())]
    write(folder / "tars/0.tar", members)
    indexed(folder / "tars", folder / "out", image={"resolution": 32}, split={"validation": 0.1, "test": 0.2})
    return folder / "out"


def test_portraits_in_a_tar_of_others_are_read_by_its_recipe(foreign: Path, tmp_path: Path):
    snapshot.save(tmp_path / "faces.safetensors", faces_of(foreign))
    evaluated = run("evaluate", tmp_path / "faces.safetensors", "--shards", foreign, "--out", tmp_path / "table.json")
    assert evaluated.exit_code == 0, evaluated.output
    table = json.loads((tmp_path / "table.json").read_text())["by"]["caption"]
    assert table["num_samples"] == Manifest.load(foreign).num_samples("test") > 4
    assert table["mean"]["real"] > 0.95


def test_samples_of_a_tar_of_others_as_conditions(foreign: Path, tmp_path: Path):
    snapshot.save(tmp_path / "faces.safetensors", faces_of(foreign))
    arguments = ["--shards", foreign, "--rows", 3, "--num", 2, "--out", f"{tmp_path}/faces/"]
    drawn = run("sample", tmp_path / "faces.safetensors", *arguments)
    assert drawn.exit_code == 0, drawn.output
    assert len(list((tmp_path / "faces").iterdir())) == 6
