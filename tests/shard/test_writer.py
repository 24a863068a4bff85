"""What stands in a tar, as other readers see it."""

import tarfile
from pathlib import Path

import pytest

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import Manifest
from t2f_dist.shard.writer import Sample, write_shard


def sample(key: str = "a", **changes) -> Sample:
    return Sample(
        **{"key": key, "identity": "x", "image": b"i", "levels": b"", "captions": ["c"], "meta": {}} | changes
    )


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


def test_what_breaks_off_leaves_nothing(tmp_path: Path):
    def broken():
        yield sample()
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_shard(tmp_path / "train-000000.tar", broken(), "jpg", False)
    assert not list(tmp_path.iterdir())


def test_the_longest_key_fits(tmp_path: Path):
    key = "k" * shard_format.KEY_LENGTH_MAX
    shard = write_shard(tmp_path / "train-000000.tar", iter([sample(key, speech=b"f")]), "jpg", True)
    assert shard is not None
    descriptor = shard_format.open_shard(tmp_path / shard.name, shard)
    (record,) = shard_format.open_index(tmp_path / shard.index, shard)
    assert shard_format.sample_key(descriptor, record) == key
    assert shard_format.read_sample(descriptor, record)["speech"] == b"f"
