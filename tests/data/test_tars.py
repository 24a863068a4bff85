"""Tars read from end to end: shares without overlap, a seeded order, damage told, nothing hostile read or run."""

import io
import json
import os
import re
import tarfile
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pytest
import webdataset

from t2f_dist.data import tars as data_tars
from t2f_dist.data.positions import Stream, draw
from t2f_dist.data.tars import BYTES_MAX, SAMPLE_BYTES_MAX, Share, Streamed, endless, in_order
from t2f_dist.shard import format as shard_format
from t2f_dist.shard.manifest import Manifest
from tests.shard import img2dataset
from tests.shard.raw import encoded
from tests.web import served

EACH = 6


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Seven tars as img2dataset writes them; the sample `nnnnnpppp` is the p-th of the n-th."""
    folder = img2dataset.corpus(tmp_path_factory.mktemp("tars"), num_tars=7, each=EACH)
    return sorted(map(str, folder.glob("*.tar")))


def share(seed: int = 0, start: int = 0, rank: int = 0, world: int = 1, worker: int = 0, workers: int = 1) -> Share:
    return Share(seed, start, rank, world, worker, workers)


def keys(stream: Iterator[Streamed], num: int) -> list[str]:
    return [sample.key for sample in islice(stream, num)]


def test_samples_are_those_of_the_members(tars: list[str]):
    found = list(in_order(tars, True))
    assert [sample.key for sample in found] == [f"{n:05d}{p:04d}" for n in range(7) for p in range(EACH)]
    assert [(sample.tar, sample.row) for sample in found] == [(n, p) for n in range(7) for p in range(EACH)]
    for sample in found:
        suffix = ("jpg", "png", "webp")[sample.row % 3]
        assert sample.image == encoded(int(sample.key), {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix])
        assert sample.captions == f"a face {sample.key}\n".encode() and not sample.damage


def test_of_our_shards_captions_stand_a_line_each(portrait_shards: Path):
    shard = Manifest.load(portrait_shards).shards("train")[0]
    index = shard_format.open_index(portrait_shards / shard.index, shard)
    tar = shard_format.open_shard(portrait_shards / shard.name, shard)
    for sample, record in zip(in_order([str(portrait_shards / shard.name)], True), index, strict=True):
        members = shard_format.read_sample(tar, record, ("image", "captions", "speech"))
        assert (sample.image, sample.captions, sample.speech) == tuple(members.values())
        assert sample.identity == record["identity"] and sample.captions.count(b"\n") == 5


def test_an_epoch_is_shared_out_without_overlap_and_without_rest(tars: list[str]):
    found: Counter[str] = Counter()
    for rank in range(2):
        for worker in range(3):
            stream = endless(tars, share(rank=rank, world=2, worker=worker, workers=3), False, 1)
            own = 2 if (rank, worker) == (0, 0) else 1  # of seven
            epoch = keys(stream, own * EACH)
            assert len({key[:5] for key in epoch}) == own
            found.update(epoch)
    assert found == Counter(f"{n:05d}{p:04d}" for n in range(7) for p in range(EACH))


def test_epochs_differ_and_each_has_every_sample_once(tars: list[str]):
    stream = endless(tars, share(), False, 1)
    first, second = keys(stream, 7 * EACH), keys(stream, 7 * EACH)
    assert sorted(first) == sorted(second) == sorted({*first}) and first != second


def test_the_order_is_a_function_of_seed_start_and_share(tars: list[str]):
    def order(**changes) -> list[str]:
        return keys(endless(tars, share(**changes), False, 10), 100)

    assert order(seed=3) == order(seed=3)
    others = [order(seed=4), order(seed=3, start=800), order(seed=3, world=2), order(seed=3, worker=1, workers=2)]
    assert all(order(seed=3) != other for other in others)


@pytest.mark.parametrize("size", [1, 5, 40, 1000])
def test_the_buffer_shuffles_and_loses_nothing(tars: list[str], size: int):
    num = 30 * EACH
    straight, shuffled = endless(tars, share(), False, 1), endless(tars, share(), False, size)
    seen, ahead = Counter(keys(shuffled, num)), Counter(keys(straight, num + size))
    assert not seen - ahead and seen.total() == num
    assert (keys(endless(tars, share(), False, size), 20) != keys(endless(tars, share(), False, 1), 20)) == (size > 1)


def test_the_buffer_draws_what_nobody_else_draws(tars: list[str]):
    plain = keys(endless(tars, share(), False, 10), 100)
    disturbed = []
    for sample in islice(endless(tars, share(), False, 10), 100):
        disturbed.append(sample.key)
        draw(1, Stream.FLIP, len(disturbed)).random()
    assert disturbed == plain


def test_equal_tars_are_shuffled_in_another_way_by_each_rank_and_loader_process(tars: list[str]):
    same = [tars[0]] * 4
    shares = [share(), share(rank=1, world=2), share(worker=1, workers=2), share(start=8), share(seed=1)]
    orders = [tuple(keys(endless(same, each, False, 2 * EACH), 40)) for each in shares]
    assert len(set(orders)) == len(shares)


def test_the_buffer_is_bounded_in_bytes(tars: list[str], monkeypatch: pytest.MonkeyPatch):
    largest = max(sample.num_bytes for sample in in_order(tars, False))
    monkeypatch.setattr(data_tars, "BUFFER_BYTES_MAX", SAMPLE_BYTES_MAX + 4 * largest)
    stream = endless(tars, share(), False, 1000)
    first = {sample.key for sample in islice(stream, EACH)}
    assert first <= {sample.key for sample in islice(endless(tars, share(), False, 1), 2 * EACH + 8)}


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def header_flipped(content: bytes) -> bytes:
    """Of the second sample, a bit in the checksum of its first header."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        offset = next(member for member in tar if "0001" in member.name).offset
    return content[: offset + 150] + bytes([content[offset + 150] ^ 1]) + content[offset + 151 :]


def without_end(content: bytes) -> bytes:
    members = content.rstrip(b"\0")
    return members + bytes(-len(members) % 512)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [cut, header_flipped, without_end])
def test_a_damaged_tar_is_told_where_webdataset_reads_a_shorter_one(tars: list[str], tmp_path: Path, change):
    broken = tmp_path / "broken.tar"
    broken.write_bytes(change(Path(tars[0]).read_bytes()))
    found = list(in_order([str(broken), tars[1]], False))
    good, bad = [each for each in found if not each.damage], [each for each in found if each.damage]
    assert len(bad) == 1 and bad[0].tar == 0 and "the rest of the tar: damaged at byte" in bad[0].damage
    assert [each.key for each in good if each.tar == 1] == keys(in_order([tars[1]], False), EACH)
    whole = {sample.key: sample for sample in in_order([tars[0]], False)}
    for each in good:
        if each.tar == 0:
            assert each.image == whole[each.key].image and each.captions == whole[each.key].captions
    if change is not cut:
        read = list(webdataset.WebDataset([str(broken)], shardshuffle=False, empty_check=False))
        assert len(read) <= EACH  # without a word


def test_tars_that_are_not_there_are_damage_and_none_at_all_is_an_error(tars: list[str], tmp_path: Path):
    missing = str(tmp_path / "missing.tar")
    found = list(in_order([missing, tars[0]], False))
    assert "missing.tar" in found[0].damage and len(found) == EACH + 1
    with pytest.raises(ValueError, match="no sample in any of 1 tars, such as .*missing.tar: .*No such file"):
        keys(endless([missing], share(), False, 1), 2)
    empty = str(img2dataset.write(tmp_path / "empty.tar", []))
    with pytest.raises(ValueError, match="no sample in any of 3 tars, such as .*empty.tar: an empty tar"):
        keys(endless([empty] * 3, share(), False, 1), 1)


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_one_whole_tar_keeps_every_rank_going(tars: list[str], tmp_path: Path, kind: str):
    """Of whose epochs most have nothing but tars without a sample."""
    bad = str(tmp_path / f"{kind}.tar")
    if kind == "empty":
        img2dataset.write(tmp_path / "empty.tar", [])
    for rank in range(4):
        stream = endless([bad, bad, tars[0], bad], share(rank=rank, world=4), False, 1)
        good = (sample for sample in stream if not sample.damage)
        assert len([sample for sample in islice(good, 5 * EACH) if sample.tar == 2]) == 5 * EACH


def test_what_is_no_plain_file_is_not_waited_for(tars: list[str], tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "folder.tar").mkdir()
    for name in ("pipe.tar", "folder.tar"):
        found = list(in_order([str(tmp_path / name), tars[0]], False))
        assert len(found) == EACH + 1 and re.search("not a plain file|Is a directory", found[0].damage)


def test_of_a_key_the_first_member_of_a_kind_is_held_however_many_come(tmp_path: Path):
    image = encoded(1, "PNG")
    path = img2dataset.write(tmp_path / "x.tar", [("a.txt", b"first"), ("a.png", image), ("a.txt", b"")])
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1].offset
    content = path.read_bytes()
    path.write_bytes(content[:last] + content[last : last + 512] * 8000 + bytes(1024))
    tracemalloc.start()
    try:
        (found,) = in_order([str(path)], True)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
    assert (found.image, found.captions) == (image, b"first\n")


def test_members_that_nobody_asked_for_are_not_read_and_hostile_ones_refused(tmp_path: Path):
    bomb = b"\x80\x04cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    image = encoded(1, "PNG")
    long = tarfile.TarInfo("e.png")
    long.size = BYTES_MAX["image"] + 1
    path = img2dataset.write(
        tmp_path / "x.tar",
        [
            ("a.png", image), ("a.pyd", bomb), ("a.pickle", bomb), ("a.pth", bomb), ("a.json", b"[" * 100_000),
            ("b.png", image), ("b.json", json.dumps({"caption": "of b", "identity": 7}).encode()),
            img2dataset.link("c.png", "/etc/passwd"), ("c.txt", b"c"),
            ("../d.png", image), ("d2.txt", b"no image"),
            ("f.png", image), ("f.png", b"another"), ("f.txt", b"x" * (BYTES_MAX["text"] + 1)),
            ("g.png", image), ("g.txt", b"\xff caf\xc3\xa9 \xe2\x80\xa8 two\n lines "),
        ],
    )  # fmt: skip
    found = {sample.key or sample.damage: sample for sample in in_order([str(path)], True)}
    assert "not JSON" in found["a"].damage and not (tmp_path / "ran").exists()
    assert found["b"].captions == b"of b\n" and found["b"].identity == shard_format.identity_number(f"{path}/b")
    assert "is a link" in found["c"].damage and "leads out" in found["../d"].damage
    assert found["d2"].damage == "no image" and "text: 65537 bytes, more than 65536" in found["f"].damage
    assert found["g"].captions == "\ufffd café two lines\n".encode()
    with open(path, "rb+") as tar:  # a sparse file of more than may be read
        tar.write(long.tobuf(tarfile.USTAR_FORMAT))
        tar.truncate(512 + BYTES_MAX["image"] + 512 + 2048)
    assert "image: 33554433 bytes" in next(in_order([str(path)], False)).damage


def test_the_same_from_a_web_server_that_fails_at_times(tars: list[str]):
    with served() as web:
        remote = [web.put(f"/{Path(tar).name}", Path(tar).read_bytes()) for tar in tars[:3]]
        web.faults[f"/{Path(tars[1]).name}"] = ["503"]
        here = list(in_order(tars[:3], False))
        for one, other in zip(in_order(remote, False), here, strict=True):
            assert (one.key, one.image, one.captions, one.damage) == (other.key, other.image, other.captions, "")


@contextmanager
def counted(files: dict[str, bytes]) -> Iterator[tuple[str, Counter[str]]]:
    """A web server that knows ranges: its URL, and the bytes that it sent of each file."""
    sent: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            content = files[self.path]
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            part = content[int(wanted[1]) : int(wanted[2]) + 1] if wanted else content
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if self.command == "GET":
                sent[self.path] += len(part)
                self.wfile.write(part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
    finally:
        server.shutdown()
        server.server_close()


def test_no_byte_of_a_remote_tar_is_fetched_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Members of all sizes about that of the block, among them one that nobody wants, and one with a long name."""
    monkeypatch.setattr(data_tars, "BLOCK", 1 << 17)
    random = draw(0, Stream.Z, 0)
    members: img2dataset.Members = []
    for number, size in enumerate((90_000, 100, 131_072, 60_000, 300_000, 5_000, 70_000, 71_000, 72_000)):
        name = "n" * 150 * (number % 2) + str(number)
        members += [(f"{name}.png", random.bytes(size)), (f"{name}.txt", b"words")]
    members.insert(6, ("2.mp4", bytes(1 << 19)))
    path = img2dataset.write(tmp_path / "x.tar", members)
    with counted({"/x.tar": path.read_bytes()}) as (place, sent):
        found = list(in_order([f"{place}/x.tar"], False))
    assert [each.image for each in found] == [each.image for each in in_order([str(path)], False)]
    assert len(found) == 9 and not any(each.damage for each in found)
    assert path.stat().st_size - (1 << 19) < sent["/x.tar"] <= path.stat().st_size - (1 << 18)
