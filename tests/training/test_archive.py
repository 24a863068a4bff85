"""Checkpoints as files: whole or not there, on a disk and in a bucket, whatever is damaged, killed or unplugged."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from t2f_dist.storage.folder import Folder
from t2f_dist.training.checkpoints import stored
from t2f_dist.training.checkpoints.archive import BLOCK_BYTES, DAMAGED, Archive, DamagedCheckpoint
from tests import s3
from tests.flaky import flaky
from tests.shard.crashes import killed_before

FILES = ("networks.safetensors", "optimizers.safetensors")


def content(images: int, turn: int = 0) -> dict[str, memoryview]:
    """Some bytes that differ by moment, turn and file."""
    return {name: memoryview(hashlib.sha256(f"{images} {turn} {name}".encode()).digest() * 50) for name in FILES}


def body(images: int) -> dict[str, Any]:
    return {"images_seen": images, "dataset": "", "scalers": {"generator": {}, "discriminator": {}}, "config": {}}


def write(archive: Archive, images: int, turn: int = 0, warn: Callable[[str], None] = pytest.fail) -> str:
    return archive.write(images, content(images, turn), body(images), warn)


def names(archive: Archive) -> list[str]:
    return [each.name for each in archive.found()]


def moments(archive: Archive) -> list[int]:
    return [each.images for each in archive.found()]


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that is not there yet, or below a URL."""
    return str(tmp_path / "checkpoints") if request.param == "disk" else request.getfixturevalue("bucket") + "/run"


@pytest.fixture
def three(place: str) -> Archive:
    archive = Archive(place)
    for images in (8, 16, 24):
        write(archive, images)
    return archive


def test_what_is_written_is_read(place: str):
    archive = Archive(place)
    archive.open()
    assert archive.listed() == []
    assert archive.newest_valid(pytest.fail) is None
    assert write(archive, 8) == "images-000000000008"
    assert write(archive, 123_456_789_012) == "images-123456789012"
    found = Archive(place).newest_valid(pytest.fail)
    assert found is not None
    assert found.name == "images-123456789012"
    assert found.body["images_seen"] == 123_456_789_012
    assert found.files == {name: bytes(part) for name, part in content(123_456_789_012).items()}
    assert moments(archive) == [123_456_789_012, 8]


def test_a_large_one_is_written_and_read_in_pieces(place: str):
    """Larger than a block of reading, and than a part of an upload."""
    archive = Archive(place)
    large = os.urandom(BLOCK_BYTES + 12_345)
    parts = {FILES[0]: memoryview(large), FILES[1]: memoryview(b"")}
    stood = []
    arrived = archive._arrived
    archive._arrived = lambda num_bytes: stood.append(archive.progress()) or arrived(num_bytes)
    name = archive.write(8, parts, body(8), pytest.fail)
    assert len(set(stood)) == len(stood) == (3 if archive.folder.is_local else 5), "a slow upload is seen to get on"
    assert archive.read(name).files == {FILES[0]: large, FILES[1]: b""}
    seen: list[int] = []
    archive.verify(name, seen.append)
    assert sum(seen) == len(large)
    assert len(seen) == 2


@pytest.mark.parametrize("file", [*FILES, "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_a_damaged_one_is_skipped_with_a_warning_and_stays(three: Archive, file: str, damage: str):
    name = f"images-000000000024/{file}"
    before = three.folder.read(name)
    middle = len(before) // 2
    flipped = before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :]
    if damage == "remove":
        three.folder.delete(name)
    else:
        three.folder.write(name, {"flip": flipped, "cut": before[:-1], "empty": b""}[damage])
    for turn in range(2):  # the second time it is known
        warnings: list[str] = []
        found = Archive(three.folder.place).newest_valid(warnings.append)
        assert found is not None
        assert found.name == "images-000000000016"
        unfinished = (damage, file) == ("remove", "state.json")
        assert len(warnings) == (1 if turn == 0 or unfinished else 0)
        assert all(str(three.at("images-000000000024")) in line for line in warnings)
    assert moments(three) == [16, 8]
    if not unfinished:
        three.prune()
        write(three, 32)
        three.prune()
        assert moments(three) == [32, 16], "what is damaged does not count as kept"
        assert {entry.name for entry in three.folder.list("images-000000000024/")} >= {
            f"images-000000000024/{DAMAGED}"
        } | {f"images-000000000024/{other}" for other in (*FILES, "state.json") if (damage, other) != ("remove", file)}
    with pytest.raises(DamagedCheckpoint, match=r"json|safetensors"):
        three.read("images-000000000024")


def test_with_all_damaged_a_run_does_not_begin_again_in_silence(three: Archive):
    for name in names(three):
        three.folder.write(f"{name}/state.json", b"{}")
    warnings: list[str] = []
    for _ in range(2):
        with pytest.raises(ValueError, match=r"all 3 checkpoints in .* are damaged: name another folder"):
            three.newest_valid(warnings.append)
    assert len(warnings) == 3


def test_one_of_another_version_is_refused_not_set_aside(three: Archive, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stored, "VERSION", 3)
    with pytest.raises(ValueError, match=r"version 2, and this t2f-dist reads t2f-dist-checkpoint version 3"):
        three.newest_valid(pytest.fail)
    assert len(three.found()) == 3


def test_what_is_read_wrong_once_is_read_again_and_not_marked(three: Archive, monkeypatch: pytest.MonkeyPatch):
    folder, turns = type(three.folder), iter([b"rotten"])
    read = folder.read
    monkeypatch.setattr(
        folder,
        "read",
        lambda self, name, *rest, **more: (
            (next(turns, None) if name.endswith("24/networks.safetensors") else None) or read(self, name, *rest, **more)
        ),
    )
    found = three.newest_valid(pytest.fail)
    assert found is not None
    assert found.name == "images-000000000024"
    assert next(turns, None) is None
    assert len(three.found()) == 3


def test_where_all_are_marked_those_that_are_whole_again_are_taken(three: Archive):
    """A disk or a network that read wrong for a while has damaged nothing."""
    before = {name: three.folder.read(f"{name}/state.json") for name in names(three)}
    for name in before:
        three.folder.write(f"{name}/state.json", b"{}")
    with pytest.raises(ValueError, match="all 3 checkpoints"):
        three.newest_valid(lambda _: None)
    for name in ("images-000000000008", "images-000000000016"):
        three.folder.write(f"{name}/state.json", before[name])
    warnings: list[str] = []
    found = three.newest_valid(warnings.append)
    assert found is not None
    assert found.name == "images-000000000016"
    assert len(warnings) == 1
    assert "was marked as damaged, and is whole now" in warnings[0]
    assert moments(three) == [16]


def test_what_is_complete_is_never_written_over(three: Archive):
    """The same moment again: to the bit, otherwise, and damaged."""
    before = three.folder.list()
    assert write(three, 24) == "images-000000000024"
    assert three.folder.list() == before, "nothing was written"
    assert write(three, 24, turn=1) == "images-000000000024-2"
    assert three.read("images-000000000024").files[FILES[0]] == bytes(content(24)[FILES[0]])
    three.prune()
    assert names(three) == ["images-000000000024-2", "images-000000000016"]
    assert write(three, 24) == "images-000000000024-3"
    three.prune()
    assert names(three) == ["images-000000000024-3", "images-000000000016"]
    three.folder.write(f"images-000000000024-3/{FILES[0]}", b"rotten")
    assert write(three, 24) == "images-000000000024-4"
    found = three.newest_valid(pytest.fail)
    assert found is not None
    assert found.files == {name: bytes(part) for name, part in content(24).items()}


def test_what_a_killed_save_leaves_goes_at_the_next_but_not_what_is_being_written(three: Archive):
    three.folder.write("images-000000000032/networks.safetensors", b"half")
    warnings: list[str] = []
    assert three.newest_valid(warnings.append)
    assert len(warnings) == 1
    assert "cut short" in warnings[0]
    three.folder.write("images-000000000040/networks.safetensors", b"of another process, which goes on")
    write(three, 48)
    three.prune()
    assert [each.images for each in three.listed()] == [48, 40, 24]
    three.folder.write("images-000000000040/optimizers.safetensors", b"more of it")
    three.prune()
    assert [each.images for each in three.listed()] == [48, 40, 24]
    three.prune()
    assert [each.images for each in three.listed()] == [48, 24]


def test_a_moment_that_a_killed_save_left_unfinished_is_written_there(three: Archive):
    three.folder.write("images-000000000032/networks.safetensors", b"half")
    three.folder.write("images-000000000032/other", b"of a kind that is no more")
    assert write(three, 32) == "images-000000000032"
    assert {entry.name.partition("/")[2] for entry in three.folder.list("images-000000000032")} == {
        *FILES,
        "state.json",
    }


@pytest.mark.parametrize(
    ("before", "images", "turn"),
    [
        pytest.param([], 8, 0, id="the first"),
        pytest.param([(8, 0), (16, 0)], 24, 0, id="the third, and one is removed"),
        pytest.param([(8, 0), (16, 0)], 16, 1, id="the same moment, otherwise"),
    ],
)
def test_killed_at_every_step_there_is_the_one_before_or_the_new_one(tmp_path: Path, before, images: int, turn: int):
    """SIGKILL before every rename, removal and sync: what is found is whole, and the next save goes on from it."""
    folder = tmp_path / "checkpoints"

    def start() -> Archive:
        shutil.rmtree(folder, ignore_errors=True)
        archive = Archive(folder)
        for each in before:
            write(archive, *each)
        return archive

    def save() -> None:
        archive = Archive(folder)
        archive.newest_valid(lambda _: None)
        archive.open()
        write(archive, images, turn)
        archive.prune()

    start()
    seen, number = set(), 0
    while killed_before(number, save):
        number += 1
        found = Archive(folder).newest_valid(lambda _: None)
        if found is None:
            assert not before
        else:
            at = found.body["images_seen"]
            turns = [t for t in (0, 1) if found.files == {n: bytes(part) for n, part in content(at, t).items()}]
            assert turns, "the files are of one save"
            assert (at, turns[0]) in [*before[-1:], (images, turn)]
            seen.add((at, turns[0]))
        save()
        archive = Archive(folder)
        kept = [archive.read(name).body["images_seen"] for name in names(archive)]
        assert kept == sorted({images, *(each[0] for each in before)}, reverse=True)[:2]
        assert [each.name for each in archive.listed()] == names(archive), "nothing unfinished is left"
        assert not list(folder.rglob("*.tmp"))
        start()
    assert number > 12
    assert seen == {*before[-1:], (images, turn)}, "both outcomes have been met"


def test_a_folder_that_vanished_is_made_again_with_a_warning(tmp_path: Path):
    archive = Archive(tmp_path / "run" / "checkpoints")
    archive.open()
    write(archive, 8)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    warnings: list[str] = []
    write(archive, 16, warn=warnings.append)
    assert len(warnings) == 1
    assert "has vanished" in warnings[0]
    assert moments(archive) == [16]


def test_a_disk_that_is_mounted_again_under_another_number_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As NFS and tmpfs are: the marker in the folder counts. Without it, it is another disk."""
    archive = Archive(tmp_path / "checkpoints")
    archive.open()
    again = Archive(tmp_path / "checkpoints")
    again.open()
    (marker,) = (tmp_path / "checkpoints").iterdir()
    write(archive, 8)
    real = os.stat

    def stat(path, *rest, **more):
        about = list(real(path, *rest, **more))
        about[2] += 1  # st_dev
        return os.stat_result(about)

    monkeypatch.setattr("t2f_dist.training.checkpoints.archive.os.stat", stat)
    write(archive, 16, warn=pytest.fail)
    marker.unlink()
    write(archive, 24, warn=pytest.fail)  # swept away on the same disk: there is a new one
    (marker,) = (tmp_path / "checkpoints").glob(".archive-*")
    monkeypatch.setattr("t2f_dist.training.checkpoints.archive.os.stat", real)
    marker.unlink()
    with pytest.raises(OSError, match="is on another disk than when the run began"):
        write(archive, 32)


@pytest.mark.parametrize("what", ["the run", "its checkpoints"])
def test_another_disk_in_its_place_is_not_written_to(tmp_path: Path, what: str):
    other = Path("/dev/shm")
    if not other.is_dir() or os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("no second disk here")
    run = tmp_path / "run"
    archive = Archive(run / "checkpoints")
    archive.open()
    write(archive, 8)
    elsewhere = other / f"t2f-dist-{os.getpid()}-{time.monotonic_ns()}"
    (elsewhere / "checkpoints").mkdir(parents=True)
    try:
        moved = run if what == "the run" else run / "checkpoints"
        moved.rename(tmp_path / "moved")
        moved.symlink_to(elsewhere if what == "the run" else elsewhere / "checkpoints")
        with pytest.raises(OSError, match="is on another disk than when the run began: its own was unmounted"):
            write(archive, 16)
        assert list((elsewhere / "checkpoints").iterdir()) == []
        shutil.rmtree(elsewhere / "checkpoints")
        (elsewhere / "checkpoints").mkdir()
    finally:
        shutil.rmtree(elsewhere)
    moved.unlink()
    (tmp_path / "moved").rename(moved)
    write(archive, 16)
    assert moments(archive) == [16, 8]


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path, bucket: str):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        Archive(tmp_path / "file").open()
    with pytest.raises(FileNotFoundError, match="no such file: s3://no-such-bucket"):
        Archive("s3://no-such-bucket/run", patience=s3.QUICK).open()
    with pytest.raises(ValueError, match="a web server is only read"):
        Archive("http://127.0.0.1:9/run").open()


def test_a_store_that_fails_now_and_then(s3_server: s3.Server, bucket: str, monkeypatch: pytest.MonkeyPatch):
    """Each fault passes at the next try; what comes is checked all the same."""
    with flaky(s3_server.port, ["busy", "reset", "cut", "busy", "reset", "cut", "busy"]) as proxy:
        s3_server.behind(proxy.port).into(monkeypatch)
        archive = Archive(f"{bucket}/run", patience=replace(s3.QUICK, tries=9))
        for images in (8, 16, 24):
            write(archive, images)
            archive.prune()
        found = archive.newest_valid(pytest.fail)
        assert found is not None
        assert found.files == {name: bytes(part) for name, part in content(24).items()}
        assert proxy.faults == []


def test_a_store_that_is_away_leaves_the_checkpoints_as_they_are(
    s3_server: s3.Server, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    archive = Archive(f"{bucket}/run", patience=s3.QUICK)
    write(archive, 8)
    with flaky(s3_server.port, ["reset"] * 1000) as proxy:
        s3_server.behind(proxy.port).into(monkeypatch)
        with pytest.raises(OSError, match=r"given up after 4 tries"):
            write(archive, 16)
        with pytest.raises(OSError, match=r"given up after 4 tries"):
            archive.newest_valid(pytest.fail)
    s3_server.into(monkeypatch)
    assert moments(archive) == [8]


def test_a_listing_while_folders_come_and_go(tmp_path: Path):
    """As `t2f-dist checkpoints` sees them of a run that goes on."""
    import threading

    archive = Archive(tmp_path / "checkpoints")
    archive.open()
    stop = threading.Event()

    def churn() -> None:
        writer, images = Archive(tmp_path / "checkpoints"), 0
        while not stop.is_set():
            images += 8
            write(writer, images)
            writer.prune()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            assert len(archive.found()) <= 3
    finally:
        stop.set()
        thread.join()
    assert Folder(tmp_path / "checkpoints").list()
