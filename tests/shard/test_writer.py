"""What stands in a tar, as other readers see it."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.build import build
from t2f_dist.shard.format import Manifest
from t2f_dist.shard.writer import Sample, write_shard
from tests.sentence_model import model_folder


def sample(key: str = "a", **changes) -> Sample:
    return Sample(**{"key": key, "identity": "x", "image": b"i", "captions": ["c"], "meta": {}} | changes)


@pytest.mark.parametrize("fixture", ["shards", "embedded"])
def test_members_in_order_plain_ustar(fixture: str, request: pytest.FixtureRequest):
    directory = request.getfixturevalue(fixture)
    suffixes = ["jpg", "txt", "json", "flac"] + ["npy"] * (fixture == "embedded")
    for shard in Manifest.load(directory).shards("train"):
        with tarfile.open(directory / shard.name) as tar:
            members = tar.getmembers()
        assert [member.name.split(".")[1] for member in members] == suffixes * shard.num_samples
        assert not any(member.pax_headers or member.mtime or member.uid for member in members)


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "é", "x" * 91])
def test_keys_that_other_readers_would_cut(tmp_path: Path, key: str):
    with pytest.raises(ValueError, match="a key has"):
        write_shard(tmp_path / "train-000000.tar", iter([sample(key)]), "jpg", False)


def test_no_samples_no_files(tmp_path: Path):
    assert write_shard(tmp_path / "train-000000.tar", iter([]), "jpg", False) is None
    assert not list(tmp_path.iterdir())


def test_nothing_is_named_as_finished_before_it_is(tmp_path: Path):
    def broken():
        yield sample()
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_shard(tmp_path / "train-000000.tar", broken(), "jpg", False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]


def test_the_longest_key_fits(tmp_path: Path):
    key = "k" * shard_format.KEY_LENGTH_MAX
    shard = write_shard(tmp_path / "train-000000.tar", iter([sample(key, speech=b"f")]), "jpg", True)
    assert shard is not None
    descriptor = shard_format.open_shard(tmp_path, shard)
    (record,) = shard_format.open_index(tmp_path, shard)
    assert shard_format.sample_key(descriptor, record) == key
    assert shard_format.read_sample(descriptor, record)["speech"] == b"f"


# webdataset leaves the closing of a tar to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_them(shards: Path):
    webdataset = pytest.importorskip("webdataset")
    manifest = Manifest.load(shards)
    urls = [str(shards / shard.name) for shard in manifest.shards("train")]
    read = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(read) == manifest.num_samples("train")
    assert len({found["__key__"] for found in read}) == len(read)
    for found in read:
        meta = json.loads(found["json"])
        assert len(found["txt"].decode().splitlines()) == meta["num_captions"]
        assert found["jpg"][:2] == b"\xff\xd8"
        assert found["flac"][:4] == (b"fLaC" if meta["speech_source"] else b"")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_decodes_embeddings(embedded: Path):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(embedded / shard.name) for shard in Manifest.load(embedded).shards("train")]
    for found in webdataset.WebDataset(urls, shardshuffle=False).decode():
        assert found["npy"].shape == (found["json"]["num_captions"], 384)
        assert found["npy"].dtype == np.float32


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_datasets_reads_them(corpus, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "shards"
    manifest = build(corpus.recipe(out, speech=None), workers=1, progress=False)
    files = {split: [str(out / shard.name) for shard in manifest.shards(split)] for split in manifest.splits}
    loaded = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))
    for split in manifest.splits:
        assert loaded[split].num_rows == manifest.num_samples(split)
    first = loaded["train"][0]
    assert first["jpg"].size == (manifest.image_resolution,) * 2
    assert first["json"]["num_captions"] == len(first["txt"].splitlines()) == 2


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_datasets_reads_voices(shards: Path, tmp_path: Path):
    """As bytes: datasets wants torchcodec installed before it touches audio."""
    datasets = pytest.importorskip("datasets")
    manifest = Manifest.load(shards)
    text = datasets.Value("string")
    number = datasets.Value("int64")
    meta = {"identity": text, "source": text, "speech_source": text}
    meta |= dict.fromkeys(["source_width", "source_height", "num_captions", "speech_samples"], number)
    columns = {"__key__": text, "__url__": text, "jpg": datasets.Image(), "txt": text, "json": meta}
    features = datasets.Features(columns | {"flac": datasets.Value("binary")})
    files = {"train": [str(shards / shard.name) for shard in manifest.shards("train")]}
    loaded = datasets.load_dataset("webdataset", data_files=files, features=features, cache_dir=str(tmp_path))
    assert loaded["train"].num_rows == manifest.num_samples("train")
    voices = [bool(row["flac"]) for row in loaded["train"]]
    assert voices == [bool(row["json"]["speech_source"]) for row in loaded["train"]]
    assert any(voices)
    assert not all(voices)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("named", [True, False])
def test_hugging_face_datasets_reads_embeddings(corpus, tmp_path: Path, named: bool):
    """With columns that are named, and with columns that it finds out itself."""
    datasets = pytest.importorskip("datasets")
    if named:
        corpus.rows[0]["captions"] = []  # no rows: nothing that a type could be read from
        corpus.write()
    out = tmp_path / "shards"
    recipe = corpus.recipe(out, speech=None, embed=str(model_folder()), split={"validation": 0, "test": 0})
    manifest = build(recipe, workers=1, progress=False)
    features = None
    if named:
        text, number = datasets.Value("string"), datasets.Value("int64")
        meta = {"identity": text, "source": text, "speech_source": text, "num_captions": number}
        meta |= dict.fromkeys(["source_width", "source_height", "speech_samples"], number)
        columns = {"__key__": text, "__url__": text, "jpg": datasets.Image(), "txt": text, "json": meta}
        features = datasets.Features(columns | {"npy": datasets.List(datasets.List(datasets.Value("float32")))})
    files = {"train": [str(out / shard.name) for shard in manifest.shards("train")]}
    loaded = datasets.load_dataset("webdataset", data_files=files, features=features, cache_dir=str(tmp_path / "c"))
    assert loaded["train"].num_rows == manifest.num_samples("train")
    for row in loaded["train"]:
        assert [len(embedding) for embedding in row["npy"]] == [384] * row["json"]["num_captions"]
