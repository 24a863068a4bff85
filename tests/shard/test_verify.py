"""Damage is found, and named by file and sample."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.format import Manifest
from t2f_dist.shard.verify import verify


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def test_what_was_written_is_whole(shards: Path):
    assert verify(shards, decode=True, progress=False) == []


@pytest.mark.parametrize("name", ["image", "captions", "meta", "speech"])
def test_a_flipped_byte_names_its_sample(copy: Path, name: str):
    shard = Manifest.load(copy).shards("train")[-1]
    index = shard_format.open_index(copy, shard)
    record = next(record for record in index if record[f"{name}_length"])
    descriptor = shard_format.open_shard(copy, shard)
    flip(copy / shard.name, int(record[f"{name}_offset"]) + int(record[f"{name}_length"]) // 2)
    (damage,) = verify(copy, progress=False)
    assert (damage.file, damage.key) == (shard.name, shard_format.sample_key(descriptor, record))
    assert name in damage.what


def test_every_byte_of_a_tar_counts(copy: Path):
    shard = Manifest.load(copy).shards("test")[0]
    random = np.random.Generator(np.random.Philox(key=3))
    for place in random.integers(0, shard.bytes, 40):
        flip(copy / shard.name, int(place))
        assert verify(copy, progress=False)
        flip(copy / shard.name, int(place))
    assert verify(copy, progress=False) == []


def test_missing_short_and_stray_files(copy: Path):
    manifest = Manifest.load(copy)
    first, second, third = manifest.shards("train")[:3]
    (copy / first.name).unlink()
    (copy / second.name).write_bytes((copy / second.name).read_bytes()[:-10_240])
    flip(copy / third.index, -1)
    flip(copy / "vocabulary.json", -5)
    shutil.copy(copy / manifest.shards("test")[0].name, copy / "train-000099.tar")
    assert [(damage.file, damage.what.split(" ")[0]) for damage in verify(copy, progress=False)] == [
        (first.name, "missing"),
        (second.name, str(copy / second.name)),
        (third.index, str(copy / third.index)),
        ("vocabulary.json", str(copy / "vocabulary.json")),
        ("train-000099.tar", "not"),
    ]


def test_decode_finds_what_was_never_right(copy: Path, shards: Path):
    """A manifest that promises another resolution: all checksums are right, and yet."""
    manifest = Manifest.load(copy)
    manifest.model_copy(update={"image_resolution": 32}).save(copy)
    assert verify(copy, progress=False) == []
    damage = verify(copy, decode=True, progress=False)
    assert len(damage) == sum(manifest.num_samples(split) for split in shard_format.SPLITS)
    assert all("16x16 pixels, not 32" in found.what for found in damage)
