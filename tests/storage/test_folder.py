"""What a folder holds is the same on a disk and in a store, byte for byte and error for error."""

import os
import pickle  # noqa: TID251  # what a process is given is pickled
from pathlib import Path

import pytest

from t2f_dist.storage.folder import Folder, write_file
from tests import s3

NAMES = ["a.txt", "a/b.txt", "a/b/c.bin", "ü *[x]?a=b#c &+%20.txt", "z/.hidden"]


@pytest.fixture(params=["local", "file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "s3":
        return Folder(request.getfixturevalue("bucket") + "/some/where", s3.QUICK)
    (tmp_path / "there").mkdir()
    return Folder(tmp_path / "there" if request.param == "local" else (tmp_path / "there").as_uri())


def test_what_is_written_is_listed_and_read(folder: Folder, tmp_path: Path):
    folder.make()
    assert folder.list() == []
    contents = {name: os.urandom(number * 1000) for number, name in enumerate(NAMES)}
    for name, content in contents.items():
        folder.write(name, content)
    entries = folder.list()
    assert [entry.name for entry in entries] == sorted(NAMES)
    assert {entry.name: entry.size for entry in entries} == {name: len(content) for name, content in contents.items()}
    assert [entry.name for entry in folder.list("a/b")] == ["a/b.txt", "a/b/c.bin"]
    assert [entry.name for entry in folder.list("a")] == ["a.txt", "a/b.txt", "a/b/c.bin"]
    assert folder.list("none/x") == []
    for name, content in contents.items():
        assert folder.read(name) == content
        assert folder.size(name) == len(content)
        folder.fetch(name, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content


def test_a_part_of_a_file(folder: Folder):
    content = os.urandom(5000)
    folder.write("x", content)
    for start, length in [(0, 10), (10, 20), (4990, 100), (5000, 1), (9999, 5), (0, 0), (17, None), (0, 5000)]:
        assert folder.read("x", start, length) == content[start : None if length is None else start + length]
    with pytest.raises(ValueError):
        folder.read("x", -1, 5)


def test_a_file_is_replaced_and_its_stamp_changes(folder: Folder):
    folder.write("x", b"one")
    (before,) = folder.list()
    folder.write("x", b"two")
    (after,) = folder.list()
    assert folder.read("x") == b"two"
    assert before.stamp and after.stamp and before.stamp != after.stamp
    assert folder.list() == [after]


def test_a_large_file_goes_and_comes_in_blocks(folder: Folder, tmp_path: Path):
    content = os.urandom(1 << 20) * 35
    (tmp_path / "large").write_bytes(content)
    folder.store(tmp_path / "large", "sub/large")
    came: list[int] = []
    folder.fetch("sub/large", tmp_path / "back", came.append)
    assert (tmp_path / "back").read_bytes() == content
    assert sum(came) == len(content)
    assert max(came) <= 8 << 20 or folder.is_local
    arrived: list[int] = []
    folder.write("other", content, arrived.append)
    assert folder.read("other") == content
    assert sum(arrived) == len(content)
    assert max(arrived) <= 16 << 20 or folder.is_local


def test_what_is_not_there(folder: Folder, tmp_path: Path):
    folder.write("a/x", b"1")
    assert folder.size("none") is None
    assert folder.size("a") is None
    for action in (
        lambda: folder.read("none"),
        lambda: folder.read("none", 5, 5),
        lambda: folder.fetch("none", tmp_path / "x"),
        lambda: folder.store(tmp_path / "none", "x"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            action()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("*x*")) == [], "nothing is left of what failed"
    folder.delete("none")
    folder.delete("a/x")
    assert folder.size("a/x") is None


def test_a_name_that_leads_out_is_refused(folder: Folder, tmp_path: Path):
    for name in ("../x", "/etc/passwd", "", "a/../../x"):
        for action in (folder.read, folder.size, folder.delete, lambda name: folder.write(name, b"")):
            with pytest.raises(ValueError):
                action(name)


def test_a_folder_is_pickled(folder: Folder):
    folder.write("x", b"1")
    again = pickle.loads(pickle.dumps(folder))  # noqa: S301
    assert again == folder
    assert again.read("x") == b"1"


def test_no_such_folder(tmp_path: Path, bucket: str):
    for place in (tmp_path / "none", bucket + "-none"):
        with pytest.raises(FileNotFoundError) as caught:
            Folder(place, s3.QUICK).list()
        assert "none" in str(caught.value)


def test_more_files_than_a_page(s3_server: s3.Server, bucket: str):
    assert s3_server.root is not None
    there = s3_server.root / bucket.partition("://")[2] / "many"
    there.mkdir()
    for number in range(1100):  # a page has 1000
        (there / f"{number:04d}").touch()
    assert [entry.name for entry in Folder(f"{bucket}/many").list()] == [f"{number:04d}" for number in range(1100)]


def test_links_are_followed_once(tmp_path: Path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x").write_bytes(b"12")
    (root / "a" / "up").symlink_to(root)
    (root / "b").symlink_to(root / "a" / "x")
    (root / "dead").symlink_to(root / "none")
    os.mkfifo(root / "pipe")
    assert [entry.name for entry in Folder(root).list()] == ["a/x", "b", "dead", "pipe"]
    for name in ("pipe", "dead"):
        assert Folder(root).size(name) is None
        with pytest.raises(OSError):
            Folder(root).read(name)


def test_an_unfinished_file_is_no_file(tmp_path: Path):
    (tmp_path / ".x.12-ab.tmp").write_bytes(b"half")
    write_file(tmp_path / "x", b"whole")
    assert [entry.name for entry in Folder(tmp_path).list()] == ["x"]


def test_a_remote_folder_has_no_path(bucket: str):
    with pytest.raises(ValueError, match="expected a local folder"):
        _ = Folder(bucket).path
