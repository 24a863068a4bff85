"""Damage is found, and named by file and sample."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from t2f_dist import cli
from t2f_dist.inspection.shelf import UNFINISHED
from t2f_dist.inspection.verify import inventory_file, unfinished, verify
from t2f_dist.shard import format as shard_format
from t2f_dist.shard import ledger
from t2f_dist.shard.assembly import corpus_file
from t2f_dist.shard.manifest import SPLITS, Manifest, Shard, Split
from t2f_dist.shard.writer import Sample, Written, write_index, write_shard, write_small


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
    index = shard_format.open_index(copy / shard.index, shard)
    record = next(record for record in index if record[f"{name}_length"])
    descriptor = shard_format.open_shard(copy / shard.name, shard)
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
    record = next(
        record for record in shard_format.open_index(embedded_copy / shard.index, shard) if record["num_captions"]
    )
    descriptor = shard_format.open_shard(embedded_copy / shard.name, shard)
    flip(embedded_copy / shard.name, int(record["embeddings_offset"]) + int(record["embeddings_length"]) - 1)
    (damage,) = verify(embedded_copy, progress=False)
    assert (damage.file, damage.key) == (shard.name, shard_format.sample_key(descriptor, record))
    assert "embeddings" in damage.what


def test_embeddings_of_another_size_than_promised(embedded_copy: Path, shards: Path):
    manifest = Manifest.load(embedded_copy)
    assert manifest.embedding is not None
    num_samples = sum(manifest.num_samples(split) for split in SPLITS)
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
    assert len(damage) == sum(plain.num_samples(split) for split in SPLITS)


@pytest.mark.parametrize(
    ("rows", "value", "reason"), [(2, np.nan, "not finite"), (1, 0.0, r"\[1, 384\], not \[2, 384\]")]
)
def test_embeddings_that_were_written_wrong(embedded_copy: Path, rows: int, value: float, reason: str):
    manifest = Manifest.load(embedded_copy)
    shard = manifest.shards("train")[0]
    path = embedded_copy / shard.name
    samples = [
        Sample("good", "x", b"i", b"", ["a", "b"], {}, embeddings=np.zeros((2, 384), np.float32)),
        Sample("bad", "x", b"i", b"", ["a", "b"][:rows], {}, embeddings=np.full((rows, 384), value, np.float32)),
    ]
    written = write_shard(path, iter(samples), "jpg", True, True)
    assert written is not None
    index = np.array(shard_format.open_index(embedded_copy / written.index, written))
    index["num_captions"] = 2
    again = write_index(embedded_copy / written.index, list(index))
    written = written.model_copy(update={"index_sha256": again.sha256})
    split = Split(num_samples=2, shards=(written,))
    manifest.model_copy(update={"splits": {"train": split}}).save(embedded_copy)
    damage = [found for found in verify(embedded_copy, decode=True, progress=False) if "embeddings" in found.what]
    assert [(found.file, found.key) for found in damage] == [(written.name, "bad")]
    assert re.search(reason, damage[0].what)


@pytest.mark.parametrize("which", ["name", "small", "index"])
def test_every_byte_of_a_file_counts(copy: Path, which: str):
    shard = Manifest.load(copy).shards("test")[0]
    name = shard.model_dump()[which]
    random = np.random.Generator(np.random.Philox(key=3))
    for place in random.integers(0, (copy / name).stat().st_size, 30):
        flip(copy / name, int(place))
        assert {damage.file for damage in verify(copy, progress=False)} == {name}
        flip(copy / name, int(place))
    assert verify(copy, progress=False) == []


def test_a_flipped_byte_of_the_small_file_names_its_sample(copy: Path):
    shard = Manifest.load(copy).shards("train")[0]
    record = shard_format.open_index(copy / shard.index, shard)[2]
    for place, what in ((10, "lod"), (200, "lod"), (int(record["lod_length"]), "captions")):
        flip(copy / shard.small, int(record["lod_offset"]) + place)
        (damage,) = verify(copy, progress=False)
        assert (damage.file, damage.key) == (shard.small, "sample 2") and what in damage.what
        flip(copy / shard.small, int(record["lod_offset"]) + place)


def test_any_number_of_processes_finds_the_same(copy: Path):
    for shard in Manifest.load(copy).shards("train"):
        flip(copy / shard.name, shard.bytes // 3)
    (copy / Manifest.load(copy).shards("train")[1].small).unlink()
    found = verify(copy, decode=True, workers=1, progress=False)
    assert len(found) >= len(Manifest.load(copy).shards("train"))
    assert verify(copy, decode=True, workers=2, progress=False) == found


def rewrite_small(folder: Path, shard: Shard, change) -> Shard:
    """The small file and the index written anew, all checksums right; `change(levels, row)` gives a row's levels."""
    index = np.array(shard_format.open_index(folder / shard.index, shard))
    descriptor = shard_format.open_small(folder / shard.small, shard)
    held = [shard_format.member(descriptor, record, "lod") for record in index]
    captions = [shard_format.captions_copy(descriptor, record) for record in index]
    with Written(folder / shard.small) as small:
        for row, record in enumerate(index):
            write_small(small, record, change(held, row), captions[row])
    written = write_index(folder / shard.index, list(index))
    changes = {"small_bytes": small.bytes, "small_sha256": small.sha256, "index_sha256": written.sha256}
    return shard.model_copy(update=changes)


def test_decode_finds_the_levels_of_another_image(copy: Path):
    manifest = Manifest.load(copy)
    first, *rest = manifest.shards("train")
    changed = rewrite_small(copy, first, lambda held, row: held[(row + 1) % len(held)] if row < 2 else held[row])
    train = manifest.splits["train"].model_copy(update={"shards": (changed, *rest)})
    manifest.model_copy(update={"splits": manifest.splits | {"train": train}}).save(copy)
    assert verify(copy, progress=False) == []
    damage = verify(copy, decode=True, progress=False)
    assert len(damage) == 2 and all(found.file == first.name for found in damage)
    assert all("is not that of the image" in found.what for found in damage)


def test_decode_finds_the_identity_of_another(copy: Path):
    manifest = Manifest.load(copy)
    first, *rest = manifest.shards("train")
    index = np.array(shard_format.open_index(copy / first.index, first))
    index["identity"][1] += 1
    changed = first.model_copy(update={"index_sha256": write_index(copy / first.index, list(index)).sha256})
    train = manifest.splits["train"].model_copy(update={"shards": (changed, *rest)})
    manifest.model_copy(update={"splits": manifest.splits | {"train": train}}).save(copy)
    (damage,) = verify(copy, decode=True, progress=False)
    assert "identity" in damage.what and damage.file == first.name


def test_missing_short_and_stray_files(copy: Path):
    manifest = Manifest.load(copy)
    first, second, third = manifest.shards("train")[:3]
    (copy / first.name).unlink()
    (copy / second.name).write_bytes((copy / second.name).read_bytes()[:-10_240])
    flip(copy / third.index, -1)
    flip(copy / "vocabulary.json", -5)
    shutil.copy(copy / manifest.shards("test")[0].name, copy / "train-000099.tar")
    (copy / "train-000099.small").touch()
    (copy / "rejected.jsonl").write_text("{}")
    assert [(damage.file, damage.what.split(" ")[0]) for damage in verify(copy, progress=False)] == [
        (first.name, "missing"),
        (second.name, str(copy / second.name)),
        (third.index, str(copy / third.index)),
        ("vocabulary.json", str(copy / "vocabulary.json")),
        ("rejected.jsonl", "its"),
        ("train-000099.small", "not"),
        ("train-000099.tar", "not"),
    ]


def test_decode_finds_what_was_never_right(copy: Path, shards: Path):
    """A manifest that promises another resolution: all checksums are right, and yet."""
    manifest = Manifest.load(copy)
    manifest.model_copy(update={"image_resolution": 32}).save(copy)
    assert verify(copy, progress=False) == []
    damage = verify(copy, decode=True, progress=False)
    assert len(damage) == sum(manifest.num_samples(split) for split in SPLITS)
    assert all("16x16 pixels, not 32" in found.what for found in damage)


def test_what_was_found_in_the_corpus_counts_too(copy: Path):
    flip(copy / "corpus.jsonl", 5)
    assert [str(damage) for damage in verify(copy, progress=False)] == ["corpus.jsonl: its checksum does not match"]
    (copy / "corpus.jsonl").unlink()
    assert [str(damage) for damage in verify(copy, progress=False)] == ["corpus.jsonl: missing"]
    manifest = Manifest.load(copy)
    for extensions in ((), ({},), ({}, {})):
        extended = manifest.model_copy(update={"extensions": extensions})
        assert inventory_file(extended) == corpus_file(extended)


def test_shards_of_an_unfinished_extension_are_no_damage(copy: Path):
    first = Manifest.load(copy).shards("train")[0]
    for name in (first.name, first.index, first.small):
        shutil.copy(copy / name, copy / name.replace("000000", "000099"))
    assert len(verify(copy, progress=False)) == 3 and unfinished(copy) == ""
    assert f"{ledger.FOLDER}/{ledger.PLAN}" == UNFINISHED
    (copy / ledger.FOLDER).mkdir()
    (copy / UNFINISHED).write_text("{}")
    assert verify(copy, progress=False) == []
    result = CliRunner().invoke(cli.main, ["verify", str(copy), "--workers", "1"])
    assert result.exit_code == 0 and "are as they were written" in result.stdout
    line = f"an extension of {copy} is not finished: 3 files are not in the manifest yet;"
    assert [each[: len(line)] for each in result.stderr.splitlines() if each.startswith("an ")] == [line]
    flip(copy / first.name, 700)
    assert [damage.file for damage in verify(copy, progress=False)] == [first.name]
