"""What stands in a tar, as other readers see it."""

import io
import os
import resource
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import Manifest
from t2f_dist.shard.writer import Sample, tar_header, write_shard


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


def test_a_full_disk_leaves_nothing_half(tmp_path: Path):
    """What is written last finds no room: a file may not grow beyond some bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    open_files = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_shard(tmp_path / "train-000000.tar", iter([sample(image=bytes(5000))]), "jpg", False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["train-000000.small"], "which is whole, and comes before"
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_more_captions_than_an_index_counts(tmp_path: Path):
    with pytest.raises(ValueError, match="a: 65536 captions; an image has at most 65535"):
        write_shard(tmp_path / "train-000000.tar", iter([sample(captions=["c"] * 65536)]), "jpg", False)
    assert not list(tmp_path.iterdir())


def test_the_longest_key_fits(tmp_path: Path):
    key = "k" * shard_format.KEY_LENGTH_MAX
    shard = write_shard(tmp_path / "train-000000.tar", iter([sample(key, speech=b"f")]), "jpg", True)
    assert shard is not None
    descriptor = shard_format.open_shard(tmp_path / shard.name, shard)
    (record,) = shard_format.open_index(tmp_path / shard.index, shard)
    assert shard_format.sample_key(descriptor, record) == key
    assert shard_format.read_sample(descriptor, record)["speech"] == b"f"


@given(st.from_regex(r"[A-Za-z0-9_-]{1,90}\.[a-z]{3}", fullmatch=True), st.integers(0, 8**11 - 1))
def test_a_header_is_that_of_tarfile(name: str, size: int):
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o444
    assert tar_header(name, size) == header.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("fixture", ["shards", "embedded"])
def test_a_tar_is_that_of_tarfile(fixture: str, request: pytest.FixtureRequest):
    directory = request.getfixturevalue(fixture)
    for shard in Manifest.load(directory).shards("train"):
        stream = io.BytesIO()
        with (
            tarfile.open(directory / shard.name) as ours,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as theirs,
        ):
            for member in ours:
                theirs.addfile(member, ours.extractfile(member))
        assert (directory / shard.name).read_bytes() == stream.getvalue()
