"""The manifest, the index, and the reading of members."""

import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.format import Manifest, Totals


def every_sample(directory: Path):
    manifest = Manifest.load(directory)
    for split in shard_format.SPLITS:
        for shard in manifest.shards(split):
            descriptor = shard_format.open_shard(directory, shard)
            for record in shard_format.open_index(directory, shard):
                yield split, descriptor, record
            os.close(descriptor)


def test_the_index_layout_is_frozen():
    """The bytes of version 1: a reader elsewhere counts on them."""
    assert shard_format.VERSION == 1
    assert shard_format.INDEX_DTYPE.itemsize == 5 * (8 + 4 + 4) + 8 + 2 + 4
    names = shard_format.INDEX_DTYPE.names or ()
    assert names[:4] == ("image_offset", "image_length", "image_crc32", "captions_offset")
    assert names[-3:] == ("identity", "num_captions", "speech_samples")


def test_one_read_and_single_members_agree(shards: Path):
    for _, descriptor, record in every_sample(shards):
        sample = shard_format.read_sample(descriptor, record)
        assert set(sample) == {"image", "captions", "meta", "speech"}
        for name, content in sample.items():
            assert content == shard_format.member(descriptor, record, name)
            assert len(content) == record[f"{name}_length"]
            assert not content or zlib.crc32(content) == record[f"{name}_crc32"]
        meta = json.loads(sample["meta"])
        assert record["identity"] == shard_format.identity_number(meta["identity"])
        assert record["num_captions"] == meta["num_captions"] == len(shard_format.captions(sample["captions"]))
        assert record["speech_samples"] == meta["speech_samples"]
        assert bool(sample["speech"]) == bool(meta["speech_source"])
        assert shard_format.member(descriptor, record, "lod") == b""


def test_names_asked_for_are_those_returned(shards: Path):
    _, descriptor, record = next(every_sample(shards))
    assert list(shard_format.read_sample(descriptor, record, ("speech", "captions"))) == ["speech", "captions"]
    assert shard_format.read_sample(descriptor, record, ("lod",)) == {"lod": b""}


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
    index = shard_format.open_index(directory, shard)
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
        descriptor = shard_format.open_shard(directory, shard)
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
        shard_format.open_shard(directory, shard)
    index = bytearray((directory / shard.index).read_bytes())
    index[-1] ^= 1
    (directory / shard.index).write_bytes(index)
    with pytest.raises(ValueError, match="damaged"):
        shard_format.open_index(directory, shard)
