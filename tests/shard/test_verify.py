"""Damage is found, and named by file and sample."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.format import Manifest
from t2f_dist.shard.verify import verify
from t2f_dist.shard.writer import Sample, write_shard


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


@pytest.fixture
def embedded_copy(embedded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded, tmp_path / "embedded"))


def test_embeddings_are_whole_and_a_flipped_bit_is_found(embedded_copy: Path):
    assert verify(embedded_copy, decode=True, progress=False) == []
    shard = Manifest.load(embedded_copy).shards("train")[0]
    record = next(record for record in shard_format.open_index(embedded_copy, shard) if record["num_captions"])
    descriptor = shard_format.open_shard(embedded_copy, shard)
    flip(embedded_copy / shard.name, int(record["embeddings_offset"]) + int(record["embeddings_length"]) - 1)
    (damage,) = verify(embedded_copy, progress=False)
    assert (damage.file, damage.key) == (shard.name, shard_format.sample_key(descriptor, record))
    assert "embeddings" in damage.what


def test_embeddings_of_another_size_than_promised(embedded_copy: Path, shards: Path):
    manifest = Manifest.load(embedded_copy)
    assert manifest.embedding is not None
    num_samples = sum(manifest.num_samples(split) for split in shard_format.SPLITS)
    other = manifest.embedding.model_copy(update={"size": 100})
    manifest.model_copy(update={"embedding": other}).save(embedded_copy)
    assert verify(embedded_copy, progress=False) == []
    damage = verify(embedded_copy, decode=True, progress=False)
    assert len(damage) == num_samples
    assert {found.what for found in damage} == {
        f"embeddings: [{count}, 384], not [{count}, 100] as the index and the manifest say" for count in (0, 2)
    }
    # shards without any, of which the manifest says that they have some
    copy = Path(shutil.copytree(shards, embedded_copy.with_name("plain")))
    plain = Manifest.load(copy)
    plain.model_copy(update={"embedding": other}).save(copy)
    damage = verify(copy, decode=True, progress=False)
    assert len(damage) == sum(plain.num_samples(split) for split in shard_format.SPLITS)


@pytest.mark.parametrize(
    ("rows", "value", "reason"), [(2, np.nan, "not finite"), (1, 0.0, r"\[1, 384\], not \[2, 384\]")]
)
def test_embeddings_that_were_written_wrong(embedded_copy: Path, rows: int, value: float, reason: str):
    manifest = Manifest.load(embedded_copy)
    shard = manifest.shards("train")[0]
    path = embedded_copy / shard.name
    samples = [
        Sample("good", "x", b"", ["a", "b"], {}, embeddings=np.zeros((2, 384), np.float32)),
        Sample("bad", "x", b"", ["a", "b"][:rows], {}, embeddings=np.full((rows, 384), value, np.float32)),
    ]
    written = write_shard(path, iter(samples), "jpg", True, True)
    assert written is not None
    index = np.array(shard_format.open_index(embedded_copy, written))
    index["num_captions"] = 2
    np.save(embedded_copy / written.index, index)
    digest = shard_format.digest((embedded_copy / written.index).read_bytes())
    written = written.model_copy(update={"index_sha256": digest})
    split = shard_format.Split(num_samples=2, shards=(written,))
    manifest.model_copy(update={"splits": {"train": split}}).save(embedded_copy)
    damage = [found for found in verify(embedded_copy, decode=True, progress=False) if "embeddings" in found.what]
    assert [(found.file, found.key) for found in damage] == [(written.name, "bad")]
    assert re.search(reason, damage[0].what)


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
