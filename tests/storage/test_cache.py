import hashlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2f_dist.storage.cache import Cache, Remote
from tests.web import Web, served


@pytest.fixture
def web() -> Iterator[Web]:
    with served() as web:
        yield web


def content(number: int, size: int = 1000) -> bytes:
    return bytes([number]) * size


def listed(url: str, content: bytes) -> Remote:
    return Remote(url, len(content), hashlib.sha256(content).hexdigest())


def stored(web: Web, number: int, size: int = 1000) -> Remote:
    return listed(web.put(f"/a/{number}.tar", content(number, size)), content(number, size))


def names(folder: Path) -> list[str]:
    """What a cache holds, by the names that people know; of what is passing, the kind."""
    return sorted(path.name[17:] or path.name for path in folder.iterdir() if path.name != "node.lock")


def test_a_file_is_fetched_once(web: Web, tmp_path: Path):
    remote, cache = stored(web, 1), Cache(tmp_path / "cache", 10_000)
    for _ in range(3):
        with cache.get(*remote) as held:
            assert held.path.read_bytes() == os.pread(held.descriptor, 2000, 0) == content(1)
    assert web.gets["/a/1.tar"] == 1
    assert names(cache.folder) == ["1.tar"]


def test_urls_that_end_alike_are_different_files(web: Web, tmp_path: Path):
    cache = Cache(tmp_path, 10_000)
    remotes = [listed(web.put(f"/{place}/0.tar", text), text) for place, text in (("a", b"one"), ("b", b"two"))]
    assert [cache.get(*remote).path.read_bytes() for remote in remotes] == [b"one", b"two"]
    again = listed(web.put("/a/0.tar", b"new"), b"new")
    assert cache.get(*again).path.read_bytes() == b"new"


@pytest.mark.parametrize("fault", ["flipped", "short", "longer", "cut", "503"])
def test_a_download_that_is_damaged_once_is_repeated(web: Web, tmp_path: Path, fault):
    remote, cache = stored(web, 1, 200_000), Cache(tmp_path, 300_000)
    web.faults["/a/1.tar"] = [fault]
    assert cache.get(*remote).path.read_bytes() == content(1, 200_000)
    assert web.gets["/a/1.tar"] == 2
    assert names(tmp_path) == ["1.tar"]


@pytest.mark.parametrize(("fault", "found"), [("flipped", "sha256 "), ("short", "999 bytes"), ("longer", "")])
def test_a_download_that_stays_damaged_is_reported(web: Web, tmp_path: Path, fault, found: str):
    remote, cache = stored(web, 1), Cache(tmp_path, 10_000)
    web.always["/a/1.tar"] = fault
    for fetch in (cache.get, cache.prefetch, cache.get):
        with pytest.raises(ValueError) as raised:
            fetch(remote.url + "?token=secret", remote.size, remote.sha256)
        line = str(raised.value)
        assert line.startswith(f"{remote.url}: expected 1,000 bytes with sha256 {remote.sha256}, found {found}")
        assert "\n" not in line
        assert "secret" not in line
        assert names(tmp_path) == []
    assert web.gets["/a/1.tar"] == 9


def test_a_file_that_is_not_there_is_reported_at_once(web: Web, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=f"{web.url}/a/9.tar"):
        Cache(tmp_path, 10_000).get(f"{web.url}/a/9.tar", 5, "0" * 64)
    assert web.gets["/a/9.tar"] == 1
    assert names(tmp_path) == []


def test_a_use_is_written_down_once_a_minute(web: Web, tmp_path: Path):
    remote, cache = stored(web, 1), Cache(tmp_path, 10_000)
    path = cache.get(*remote).path
    for seconds_ago, touched in ((30, False), (100, True)):
        before = time.time() - seconds_ago
        os.utime(path, (before, before))
        cache.get(*remote).release()
        assert (path.stat().st_mtime > before + 10) == touched


def test_what_killed_processes_left_is_removed(web: Web, tmp_path: Path):
    remote = stored(web, 1)
    (tmp_path / f"{remote.key}.fetch").write_text("1000")
    (tmp_path / f"{remote.key}.part").mkdir()
    (tmp_path / f"{remote.key}.part" / "file").write_bytes(b"half of it")
    (tmp_path / "0123456789abcdef.part").mkdir()
    (tmp_path / "0123456789abcdef.pins").write_text(remote.key)
    (tmp_path / "notes.txt").write_text("of somebody")
    cache = Cache(tmp_path, 1000)
    assert cache.get(*remote).path.read_bytes() == content(1)
    with pytest.raises(ValueError, match="is too small"):
        Cache(tmp_path, 1000, wait_seconds=0).get(*stored(web, 3))
    assert names(tmp_path) == ["1.tar", "notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "of somebody"


def test_a_file_that_was_cut_in_the_cache_is_fetched_again(web: Web, tmp_path: Path):
    remote, cache = stored(web, 1), Cache(tmp_path, 1000)
    with cache.get(*remote) as held:
        os.truncate(held.path, 10)
    assert cache.get(*remote).path.read_bytes() == content(1)
    assert web.gets["/a/1.tar"] == 2


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(web: Web, tmp_path: Path):
    remote, cache = stored(web, 1), Cache(tmp_path, 1000)
    held, other = cache.get(*remote), Cache(tmp_path, 1000).get(*remote)
    assert not cache.drop_damaged(held, remote.sha256)
    held.path.write_bytes(content(2))
    assert cache.drop_damaged(held, remote.sha256)
    again = cache.get(*remote)
    assert again.path.read_bytes() == content(1)
    assert cache.drop_damaged(other, remote.sha256), "it is the damaged one still"
    assert not cache.drop_damaged(again, remote.sha256)
    os.truncate(again.path, 10)
    assert cache.drop_damaged(again, remote.sha256)
    assert cache.get(*remote).path.read_bytes() == content(1)
    assert web.gets["/a/1.tar"] == 3


def test_a_file_larger_than_the_cache_is_refused_at_once(web: Web, tmp_path: Path):
    cache = Cache(tmp_path, 1000)
    cache.get(*stored(web, 1)).release()
    with pytest.raises(ValueError, match=r"data.cache_bytes 1,000 is too small: .*/a/2.tar has 1,500 bytes"):
        cache.get(*stored(web, 2, 1500))
    assert names(tmp_path) == ["1.tar"]
    assert not web.gets["/a/2.tar"]


def test_where_all_is_held_a_get_waits_and_then_gives_up(web: Web, tmp_path: Path):
    cache = Cache(tmp_path, 2000, wait_seconds=0.3)
    held = [cache.get(*stored(web, number)) for number in (1, 2)]
    with pytest.raises(ValueError, match="data.cache_bytes 2,000 is too small") as raised:
        cache.get(*stored(web, 3, 1200))
    assert "1,200 more" in str(raised.value)
    threading.Timer(0.1, held[0].release).start()
    assert cache.get(*stored(web, 4)).path.read_bytes() == content(4)
    assert names(tmp_path) == ["2.tar", "4.tar"]


def test_what_is_pinned_is_evicted_for_a_get_alone_the_latest_needed_first(web: Web, tmp_path: Path):
    cache = Cache(tmp_path, 3000)
    remotes = [stored(web, number) for number in range(6)]
    for number in (0, 1, 2):
        assert cache.prefetch(*remotes[number]) == "here"
    pins = cache.pins()
    pins.set(remotes[number].key for number in (1, 2))
    assert cache.prefetch(*remotes[3]) == "here"
    assert names(tmp_path) == ["1.tar", "2.tar", "3.tar", "pins"]
    pins.set(remotes[number].key for number in (1, 3, 2))
    assert cache.prefetch(*remotes[4]) == "full"
    cache.get(*remotes[4]).release()
    assert names(tmp_path) == ["1.tar", "3.tar", "4.tar", "pins"]
    pins.close()
    assert cache.prefetch(*remotes[5]) == "here"
    assert names(tmp_path) == ["3.tar", "4.tar", "5.tar"]


def test_a_prefetch_waits_for_nobody_and_stops_when_told(web: Web, tmp_path: Path):
    remote, cache, going = stored(web, 1, 4_000_000), Cache(tmp_path, 5_000_000), threading.Event()
    web.always["/a/1.tar"] = "slow"
    going.set()
    outcome: list[str] = []
    thread = threading.Thread(target=lambda: outcome.append(cache.prefetch(*remote, going.is_set)))
    thread.start()
    while not web.gets["/a/1.tar"]:
        time.sleep(0.01)
    started = time.monotonic()
    assert cache.prefetch(*remote) == "elsewhere"
    assert cache.prefetch(*stored(web, 2, 2_000_000)) == "full"
    going.clear()
    thread.join()
    assert time.monotonic() - started < 0.6
    assert outcome == ["stopped"]
    assert names(tmp_path) == []
    assert cache.get(*remote).path.stat().st_size == 4_000_000


def test_a_get_waits_for_a_prefetch_instead_of_fetching_too(web: Web, tmp_path: Path):
    remote, cache = stored(web, 1), Cache(tmp_path, 1000)
    web.always["/a/1.tar"] = "slow"
    thread = threading.Thread(target=cache.prefetch, args=remote)
    thread.start()
    while not web.gets["/a/1.tar"]:
        time.sleep(0.01)
    assert cache.get(*remote).path.read_bytes() == content(1)
    thread.join()
    assert web.gets["/a/1.tar"] == 1


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(ValueError, match="data.cache_dir") as raised:
            Cache(folder, 1000)
        assert str(folder) in str(raised.value)
        assert "\n" not in str(raised.value)


FULL = """
import sys
from pathlib import Path
from t2f_dist.storage.cache import Cache
url, size, sha256, filled = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
cache = Cache("/mnt/cache", 10 * size)
Path("/mnt/other").write_bytes(bytes(filled))
try:
    cache.get(url, size, sha256)
except OSError as error:
    print(type(error).__name__, error)
Path("/mnt/other").unlink()
print(sorted(path.name for path in cache.folder.iterdir()), cache.get(url, size, sha256).path.stat().st_size)
"""


@pytest.mark.slow
def test_a_full_disk_is_told_and_nothing_stays_behind(web: Web, tmp_path: Path):
    mount = 'mount -t tmpfs -o size=1m none /mnt && exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    remote = stored(web, 1, 600_000)
    command = [*inside, sys.executable, "-c", FULL, remote.url, str(remote.size), remote.sha256, "700000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told, after = done.stdout.splitlines()
    assert told.startswith("OSError the disk of /mnt/cache is full (")
    assert told.endswith("set data.cache_dir to a folder on another disk")
    assert after == "['node.lock'] 600000"


def test_a_forked_child_neither_releases_nor_keeps_what_its_parent_holds(web: Web, tmp_path: Path):
    cache = Cache(tmp_path, 2000, wait_seconds=0)
    first, second = (cache.get(*stored(web, number)) for number in (1, 2))
    context = multiprocessing.get_context("fork")
    released, told = context.Event(), context.Event()

    def child() -> None:
        first.release()
        released.set()
        told.wait()

    process = context.Process(target=child)
    process.start()
    released.wait()
    with pytest.raises(ValueError, match="too small"):
        cache.get(*stored(web, 3))
    second.release()
    cache.get(*stored(web, 3)).release()
    assert names(tmp_path) == ["1.tar", "3.tar"]
    told.set()
    process.join()
