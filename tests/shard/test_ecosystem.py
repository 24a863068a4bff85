"""Our shards as other readers see them: webdataset, Hugging Face datasets, tools that know img2dataset's members."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.build import build
from t2f_dist.shard.manifest import Manifest
from tests.sentence_model import model_folder

# webdataset leaves the closing of a tar to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EXTENSIONS = {"image": "jpg", "captions": "txt", "meta": "json", "speech": "flac", "embeddings": "npy"}


@pytest.fixture(autouse=True)
def as_others_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """webdataset without the switch that the training loader sets, which forbids local paths to some of its readers."""
    from webdataset import utils

    monkeypatch.setattr(utils, "enforce_security", False)


@pytest.fixture(params=["shards", "embedded"])
def directory(request: pytest.FixtureRequest) -> Path:
    """With voices; with voices and embeddings."""
    return request.getfixturevalue(request.param)


def tars(directory: Path, split: str = "train") -> list[str]:
    return [str(directory / shard.name) for shard in Manifest.load(directory).shards(split)]


def own(directory: Path, split: str = "train") -> list[dict[str, bytes]]:
    """Samples as the training loader reads them, through the index: extension -> content."""
    manifest, found = Manifest.load(directory), []
    names = [name for name in EXTENSIONS if name != "embeddings" or manifest.embedding]
    for shard in manifest.shards(split):
        descriptor = shard_format.open_shard(directory / shard.name, shard)
        for record in shard_format.open_index(directory / shard.index, shard):
            sample = shard_format.read_sample(descriptor, record, names)
            key = shard_format.sample_key(descriptor, record)
            found.append({EXTENSIONS[name]: sample[name] for name in names} | {"__key__": key.encode()})
    return found


def test_webdataset_reads_every_member_as_it_is(directory: Path):
    import webdataset

    read = list(webdataset.WebDataset(tars(directory), shardshuffle=False))
    expected = own(directory)
    assert len(read) == len(expected) == len({sample["__key__"] for sample in read})
    for found, sample in zip(read, expected, strict=True):
        assert found.pop("__key__").encode() == sample["__key__"]
        assert found.pop("__url__") in tars(directory) and found.pop("__local_path__") in tars(directory)
        assert found == {extension: content for extension, content in sample.items() if extension != "__key__"}
    voices = [sample["flac"][:4] for sample in read]
    assert set(voices) == {b"fLaC", b""}


def test_webdataset_decodes_them(directory: Path):
    import webdataset

    manifest = Manifest.load(directory)
    for found in webdataset.WebDataset(tars(directory, "test"), shardshuffle=False).decode("pil"):
        assert found["jpg"].size == (manifest.image_resolution,) * 2
        assert len(found["txt"].splitlines()) == found["json"]["num_captions"]
        if manifest.embedding:
            assert found["npy"].shape == (found["json"]["num_captions"], 384)
            assert found["npy"].dtype == np.float32


def test_a_pipeline_shares_them_out_among_loader_processes(directory: Path):
    import webdataset

    pipeline = webdataset.DataPipeline(
        webdataset.SimpleShardList(tars(directory)),
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(10),
        webdataset.to_tuple("__key__", "jpg", "txt"),
        webdataset.batched(3),
    )
    keys: Counter[str] = Counter()
    for batch, images, captions in webdataset.WebLoader(pipeline, batch_size=None, num_workers=2):
        keys.update(batch)
        assert all(image[:2] == b"\xff\xd8" for image in images) and len(captions) == len(batch)
    assert keys == Counter(sample["__key__"].decode() for sample in own(directory))


def test_members_stand_as_img2dataset_writes_them(directory: Path):
    """KEY.jpg, KEY.txt and KEY.json next to each other, the last a flat object of the same keys and types."""
    import webdataset

    kinds = set()
    for sample in webdataset.WebDataset(tars(directory), shardshuffle=False):
        assert {"jpg", "txt", "json"} <= sample.keys()
        meta = json.loads(sample["json"])
        kinds.add(tuple((key, type(value)) for key, value in meta.items()))
        with Image.open(io.BytesIO(sample["jpg"])) as image:
            assert image.format == "JPEG" and image.mode == "RGB"
        sample["txt"].decode()
    assert len(kinds) == 1 and {kind for _, kind in kinds.pop()} == {str, int}


def test_they_are_a_corpus_again(shards: Path, tmp_path: Path):
    """Through the layout for img2dataset's tars: all images and captions are found."""
    from t2f_dist.config.recipe import ShardRecipe

    pattern = str(shards / "train-*.tar")
    recipe = ShardRecipe(layout="webdataset", faces=pattern, out=str(tmp_path / "again"), image={"resolution": 16})
    manifest = build(recipe, workers=1, progress=False)
    assert manifest.totals["images"].stored == Manifest.load(shards).num_samples("train")


def features(embeddings: bool):
    """The columns, named, with voices as bytes: datasets wants torchcodec installed before it touches audio."""
    from datasets import Features, Image, List, Value

    text, number = Value("string"), Value("int64")
    meta = {"identity": text, "source": text, "speech_source": text}
    meta |= dict.fromkeys(["source_width", "source_height", "num_captions", "speech_samples"], number)
    columns = {"__key__": text, "__url__": text, "jpg": Image(), "txt": text, "json": meta, "flac": Value("binary")}
    return Features(columns | ({"npy": List(List(Value("float32")))} if embeddings else {}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets_reads_every_member(directory: Path, tmp_path: Path, streaming: bool):
    import datasets

    with_embeddings = Manifest.load(directory).embedding is not None
    rows = datasets.load_dataset(
        "webdataset",
        data_files={"train": tars(directory)},
        split="train",
        features=features(with_embeddings),
        cache_dir=str(tmp_path),
        streaming=streaming,
    )
    expected = own(directory)
    num = 0
    for row, sample in zip(rows, expected, strict=True):
        num += 1
        assert row["__key__"].encode() == sample["__key__"]
        assert row["jpg"].tobytes() == Image.open(io.BytesIO(sample["jpg"])).tobytes()
        assert row["txt"].encode() == sample["txt"] and row["flac"] == sample["flac"]
        assert row["json"] == json.loads(sample["json"])
        if with_embeddings:
            stored = shard_format.embeddings(sample["npy"])
            assert np.array_equal(np.array(row["npy"], np.float32).reshape(stored.shape), stored)
    assert num == len(expected) > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("embed", [False, True])
def test_hugging_face_datasets_finds_the_columns_itself(corpus, tmp_path: Path, embed: bool):
    """Without voices, of all splits at once."""
    import datasets

    out = tmp_path / "shards"
    manifest = build(
        corpus.recipe(out, speech=None, embed=str(model_folder()) if embed else None), workers=1, progress=False
    )
    files = {split: tars(out, split) for split in manifest.splits}
    loaded = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))
    for split in manifest.splits:
        assert loaded[split].num_rows == manifest.num_samples(split)
        for row in loaded[split]:
            assert row["jpg"].size == (manifest.image_resolution,) * 2
            assert row["json"]["num_captions"] == len(row["txt"].splitlines()) == 2
            assert not embed or [len(embedding) for embedding in row["npy"]] == [384] * 2
