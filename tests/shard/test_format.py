"""The manifest, the index, and the reading of members."""

import io
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from t2f_dist.shard import format as shard_format
from t2f_dist.shard import levels
from t2f_dist.shard.manifest import SPLITS, VERSION, Embedding, Manifest, Shard, Totals
from t2f_dist.shard.writer import write_index


def every_sample(directory: Path):
    manifest = Manifest.load(directory)
    for split in SPLITS:
        for shard in manifest.shards(split):
            descriptor = shard_format.open_shard(directory / shard.name, shard)
            for record in shard_format.open_index(directory / shard.index, shard):
                yield split, descriptor, record
            os.close(descriptor)


def test_the_index_layout_is_frozen():
    """The bytes of version 3: a reader elsewhere counts on them."""
    assert VERSION == 3
    assert shard_format.INDEX_DTYPE.itemsize == 6 * (8 + 4 + 4) + 8 + 2 + 4 == 110
    names = shard_format.INDEX_DTYPE.names or ()
    assert names[:4] == ("image_offset", "image_length", "image_crc32", "captions_offset")
    assert names[9:15:3] == ("speech_offset", "embeddings_offset")
    assert names[-3:] == ("identity", "num_captions", "speech_samples")


def test_one_read_and_single_members_agree(shards: Path):
    for _, descriptor, record in every_sample(shards):
        sample = shard_format.read_sample(descriptor, record)
        assert list(sample) == ["image", "captions", "meta", "speech", "embeddings"]
        for name, content in sample.items():
            assert content == shard_format.member(descriptor, record, name)
            assert len(content) == record[f"{name}_length"]
            assert not content or zlib.crc32(content) == record[f"{name}_crc32"]
        meta = json.loads(sample["meta"])
        assert record["identity"] == shard_format.identity_number(meta["identity"])
        assert record["num_captions"] == meta["num_captions"] == len(shard_format.captions(sample["captions"]))
        assert record["speech_samples"] == meta["speech_samples"]
        assert bool(sample["speech"]) == bool(meta["speech_source"])
        assert sample["embeddings"] == b""


def test_the_index_is_a_file_of_numpy(shards: Path):
    for shard in Manifest.load(shards).shards("train"):
        index = shard_format.open_index(shards / shard.index, shard)
        assert np.array_equal(np.load(shards / shard.index, allow_pickle=False), index)
        assert (shards / shard.index).stat().st_size == shard.index_bytes


def test_the_small_file_holds_levels_and_captions_side_by_side(shards: Path):
    manifest = Manifest.load(shards)
    for shard in manifest.shards("train"):
        tar = shard_format.open_shard(shards / shard.name, shard)
        small = shard_format.open_small(shards / shard.small, shard)
        end = 0
        for record in shard_format.open_index(shards / shard.index, shard):
            assert record["lod_offset"] == end
            assert record["lod_length"] == levels.num_bytes(manifest.image_resolution)
            end += int(record["lod_length"] + record["captions_length"])
            assert shard_format.captions_copy(small, record) == shard_format.member(tar, record, "captions")
            assert zlib.crc32(shard_format.member(small, record, "lod")) == record["lod_crc32"]
            for level in levels.LEVELS:
                if level <= manifest.image_resolution:
                    assert shard_format.level(small, record, level).shape == (3, level, level)
        assert end == shard.small_bytes
        os.close(tar)
        os.close(small)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("image_offset", 2**64 - 1, "a member image lies outside"),
        ("image_length", 2**32 - 1, "a member image lies outside"),
        ("image_length", 0, "a sample without an image"),
        ("speech_offset", 2**63, "a member speech lies outside"),
        ("lod_offset", 2**64 - 64, "outside of the small file|a member lod lies outside"),
        ("lod_length", 2**32 - 1, "captions lies outside of the small file"),
        ("captions_length", 2**31, "captions lies outside of the small file"),
    ],
)
def test_an_index_that_leads_out_of_its_files_is_refused(shards: Path, tmp_path: Path, field, value, reason):
    shard = Manifest.load(shards).shards("train")[0]
    index = np.array(shard_format.open_index(shards / shard.index, shard))
    index[field][1] = value
    written = write_index(tmp_path / shard.index, list(index))
    with pytest.raises(ValueError, match=reason):
        shard_format.open_index(tmp_path / shard.index, shard.model_copy(update={"index_sha256": written.sha256}))


@pytest.mark.parametrize(
    "name", ["../x.tar", "/x.tar", "a/b.tar", ".x", "", "pipe:cat", "ssh://h/x.tar", "s3://a/../b"]
)
def test_a_manifest_names_files_that_lead_nowhere_else(shards: Path, name: str):
    content = Manifest.load(shards).model_dump(mode="json")
    for field in ("name", "index", "small"):
        shard = content["splits"]["train"]["shards"][0]
        with pytest.raises(ValidationError):
            Shard.model_validate(shard | {field: name})
    with pytest.raises(ValidationError):
        Manifest.model_validate(content | {"rejected": content["rejected"] | {"file": name}})


def test_names_asked_for_are_those_returned(shards: Path):
    _, descriptor, record = next(every_sample(shards))
    assert list(shard_format.read_sample(descriptor, record, ("speech", "captions"))) == ["speech", "captions"]


def npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version, allow_pickle=True)
    return stream.getvalue()


def test_every_caption_has_its_embedding(embedded: Path):
    manifest = Manifest.load(embedded)
    assert manifest.embedding is not None
    assert (manifest.embedding.size, manifest.embedding.model, manifest.embedding.source) == (384, "model", "model")
    assert list(shard_format.members("jpg", True, True).values()) == ["jpg", "txt", "json", "flac", "npy"]
    counts = set()
    for _, descriptor, record in every_sample(embedded):
        array = shard_format.embeddings(shard_format.read_sample(descriptor, record)["embeddings"])
        assert array.shape == (record["num_captions"], 384)
        assert array.flags.writeable
        counts.add(int(record["num_captions"]))
    assert counts == {0, 2}


@pytest.mark.parametrize("shape", [(0, 384), (1, 1), (3, 7)])
def test_embeddings_round_trip(shape: tuple[int, int]):
    array = np.random.Generator(np.random.Philox(key=1)).standard_normal(shape, dtype=np.float32)
    found = shard_format.embeddings(npy(array))
    assert found.dtype == np.float32
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"not numbers",
        npy(np.zeros((2, 3)))[:-1],
        npy(np.zeros((2, 3), np.float32))[:-1],
        npy(np.zeros((2, 3), np.float32)) + b"\0",
        npy(np.zeros((2, 3), np.float32), version=(2, 0)),
        npy(np.zeros((2, 3), np.float64)),
        npy(np.zeros((2, 3), ">f4")),
        npy(np.zeros(6, np.float32)),
        npy(np.asfortranarray(np.zeros((2, 3), np.float32))),
        npy(np.array([[np.nan, 0]], np.float32)),
        npy(np.array([[np.inf, 0]], np.float32)),
        npy(np.array([[None, {}]], dtype=object)),
        npy(np.zeros((2, 3), np.float32)).replace(b"(2, 3)", b"(9, 9)"),
        npy(np.zeros((2, 3), np.float32)).replace(b"(2, 3)", b"(-1,-6)"),
    ],
)
def test_what_is_no_embedding_is_refused(content: bytes):
    with pytest.raises(shard_format.DamagedSample, match="embeddings: ."):
        shard_format.embeddings(content)


def test_any_header_either_reads_or_is_refused():
    whole = npy(np.ones((2, 3), np.float32))
    for place in range(len(whole) - 24):
        for bit in range(8):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            try:
                found = shard_format.embeddings(bytes(content))
            except shard_format.DamagedSample:
                continue
            assert found.dtype == np.float32 and found.size == 6


def test_an_embedding_has_a_size_and_an_origin():
    Embedding(size=3, model="", sha256="", source="corpus")
    for wrong in ({"size": 0}, {"source": "model"}, {"sha256": "ab"}):
        with pytest.raises(ValidationError):
            Embedding(**{"size": 3, "model": "", "sha256": "", "source": "corpus"} | wrong)


def test_an_older_version_is_refused(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"format": "t2f-dist-shards", "version": 2}')
    with pytest.raises(ValueError, match="format version 2; this t2f-dist reads 3: build the shards again"):
        Manifest.load(tmp_path)


def test_fingerprint_follows_the_content(shards: Path):
    manifest = Manifest.load(shards)
    content = manifest.model_dump()
    assert Manifest.model_validate(content).fingerprint == manifest.fingerprint
    first = content["splits"]["train"]["shards"][0]
    first["sha256"] = "0" * 64
    assert Manifest.model_validate(content).fingerprint != manifest.fingerprint


@pytest.mark.parametrize("field", ["image_resolution", "version", "format", "sample_rate_hz"])
def test_a_changed_manifest_is_refused(shards: Path, tmp_path: Path, field: str):
    content = json.loads((shards / "manifest.json").read_text())
    content[field] = 99
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json") as error:
        Manifest.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}'])
def test_no_manifest_at_all_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        Manifest.load(tmp_path)


def test_missing_manifest_and_directory(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="did not finish"):
        Manifest.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        Manifest.load(tmp_path / "nowhere")


def test_totals_that_do_not_add_up_are_refused():
    with pytest.raises(ValidationError):
        Totals(found=3, stored=1, rejected=1, unmatched=0)


def test_unknown_split(shards: Path):
    with pytest.raises(ValueError, match="'valid'"):
        Manifest.load(shards).shards("valid")


def test_every_flipped_byte_of_a_member_is_caught(shards: Path, tmp_path: Path):
    directory = tmp_path / "copy"
    shutil.copytree(shards, directory)
    shard = Manifest.load(directory).shards("train")[0]
    index = shard_format.open_index(directory / shard.index, shard)
    path = directory / shard.name
    content = bytearray(path.read_bytes())
    random = np.random.Generator(np.random.Philox(key=1))
    for number, record in enumerate(index):
        name = ("image", "captions", "meta")[number % 3]
        place = int(record[f"{name}_offset"]) + int(random.integers(record[f"{name}_length"]))
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        path.chmod(0o644)
        path.write_bytes(damaged)
        descriptor = shard_format.open_shard(directory / shard.name, shard)
        for other, row in enumerate(index):
            if other == number:
                with pytest.raises(shard_format.DamagedSample, match=name):
                    shard_format.member(descriptor, row, name)
                with pytest.raises(shard_format.DamagedSample, match=name):
                    shard_format.read_sample(descriptor, row)
            else:
                shard_format.read_sample(descriptor, row)
        os.close(descriptor)


def test_a_shorter_shard_and_another_index_are_refused(shards: Path, tmp_path: Path):
    directory = tmp_path / "copy"
    shutil.copytree(shards, directory)
    shard = Manifest.load(directory).shards("train")[0]
    (directory / shard.name).write_bytes((directory / shard.name).read_bytes()[:-512])
    with pytest.raises(ValueError, match="bytes where the manifest says"):
        shard_format.open_shard(directory / shard.name, shard)
    index = bytearray((directory / shard.index).read_bytes())
    index[-1] ^= 1
    (directory / shard.index).write_bytes(index)
    with pytest.raises(ValueError, match="damaged"):
        shard_format.open_index(directory / shard.index, shard)
