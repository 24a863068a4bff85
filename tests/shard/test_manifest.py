"""What a manifest claims: of what its fingerprint is, which counts can be, and that a large one is opened in little."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import (
    INDEX_HEADER_BYTES,
    INDEX_RECORD_BYTES,
    SAMPLES_MAX,
    Manifest,
    Shard,
    Split,
    Totals,
    shard_name,
)
from t2f_dist.shard.writer import write_index
from tests.data import mixed
from tests.shard.img2dataset import corpus
from tests.shard.test_index import indexed

OTHER = "0" * 64


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed.write(tmp_path_factory.mktemp("own") / "shards")


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("tars") / "cc3m", num_tars=1)


@pytest.mark.parametrize("field", ["name", "bytes", "sha256", "index_sha256", "small_sha256"])
def test_the_fingerprint_is_of_every_file(own: Path, field: str):
    manifest = Manifest.load(own)
    content = manifest.model_dump()
    assert Manifest.model_validate(content).fingerprint == manifest.fingerprint
    shard = content["splits"]["validation"]["shards"][0]
    shard[field] = {"name": "another.tar", "bytes": shard["bytes"] + 512}.get(field, OTHER)
    assert Manifest.model_validate(content).fingerprint != manifest.fingerprint


def test_the_fingerprint_is_of_the_words_and_the_resolution(own: Path):
    manifest = Manifest.load(own)
    content = manifest.model_dump()
    words = content["vocabulary"] | {"sha256": OTHER}
    others = [{"vocabulary": words}, {"vocabulary": None}, {"image_resolution": 4}]
    found = {Manifest.model_validate(content | other).fingerprint for other in others}
    assert len(found | {manifest.fingerprint}) == 4
    # Its images are stored as squares: how they became that says no more.
    assert Manifest.model_validate(content | {"recipe": {"image": {"fit": "pad"}}}).fingerprint == manifest.fingerprint


def test_another_index_of_the_same_tars_is_other_data(tars: Path, tmp_path: Path):
    """Other captions, identities, words, levels, or ways to a square: of the same tars, with the same samples."""
    split = {"validation": 0, "test": 0}
    kinds = {
        "as it is": {},
        "captions": {"captions": "url"},
        "identity": {"identity": "album"},
        "words": {"text": {"max_words": 3}},
        "levels": {"levels": False},
        "resolution": {"image": {"resolution": 32}, "levels": False},
        "fit": {"image": {"resolution": 16, "fit": "pad"}, "levels": False},
    }
    found = {
        name: indexed(tars, tmp_path / name, split=split, **kind).manifest.fingerprint for name, kind in kinds.items()
    }
    assert len(set(found.values())) == len(kinds)
    again = indexed(tars, tmp_path / "again", workers=2, split=split).manifest
    assert again.fingerprint == found["as it is"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_samples": 0}, "greater than or equal to 1"),
        ({"num_samples": SAMPLES_MAX + 1}, "less than or equal to"),
        ({"num_samples": 2**62}, "less than or equal to"),
        ({"num_samples": 13}, "are not those of num_samples 13"),
        ({"index_bytes": 0}, "are not those of num_samples 12"),
        ({"index_bytes": INDEX_HEADER_BYTES + 13 * INDEX_RECORD_BYTES}, "are not those of num_samples 12"),
        ({"bytes": 12 * 1024 - 1}, "too short for num_samples 12"),
    ],
)
def test_counts_that_cannot_be(own: Path, changes: dict[str, int], reason: str):
    shard = Manifest.load(own).shards("train")[0].model_dump()
    assert Shard.model_validate(shard).num_samples == 12
    with pytest.raises(ValidationError, match=reason):
        Shard.model_validate(shard | changes)


@pytest.mark.parametrize("num", [1, 12, 1000, SAMPLES_MAX])
def test_the_header_of_an_index_has_one_size(num: int):
    assert len(shard_format.index_header(num)) == INDEX_HEADER_BYTES


OPENED = """
import json, sys
from pathlib import Path
from t2f_dist.config.condition import Lstm
from t2f_dist.data.dataset import Wanted
from t2f_dist.data.indexed import IndexedSamples

def anonymous():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024

before = anonymous()
wanted = Wanted(modalities={"caption": Lstm()}, mismatched=frozenset({"condition"}))
samples = IndexedSamples(sys.argv[1], "train", seed=0, window_shards=16, wanted=wanted)
item = samples[3 * 10**9 + 7, 8]
print(json.dumps([samples.order.num_samples, list(item.image.shape), anonymous() - before]))
"""
NUM_SHARDS, EACH = 10_000, 1000


def test_ten_million_samples_are_opened_in_little_memory(tmp_path: Path):
    """All shards share an index and a small file, whose records lead to the same few samples; there are no tars."""
    folder = mixed.write(tmp_path / "shards")
    manifest = Manifest.load(folder)
    first = manifest.shards("train")[0]
    records = np.resize(shard_format.open_index(folder / first.index, first), EACH)
    index = write_index(folder / "many.index.npy", list(records))
    content = first.model_dump() | {"num_samples": EACH, "bytes": EACH * 1024}
    content |= {"index": index.path.name, "index_bytes": index.bytes, "index_sha256": index.sha256}
    shards = [Shard.model_validate(content | {"name": shard_name("train", number)}) for number in range(NUM_SHARDS)]
    total = Totals(found=NUM_SHARDS * EACH, stored=NUM_SHARDS * EACH, rejected=0, unmatched=0)
    splits = {"train": Split(num_samples=NUM_SHARDS * EACH, shards=tuple(shards))}
    manifest.model_copy(update={"splits": splits, "totals": {"images": total}}).save(folder)
    done = subprocess.run(
        [sys.executable, "-c", OPENED, folder], capture_output=True, text=True, check=True, timeout=60
    )
    num_samples, shape, megabytes = json.loads(done.stdout)
    assert (num_samples, shape) == (NUM_SHARDS * EACH, [3, 8, 8])
    assert megabytes < 300
