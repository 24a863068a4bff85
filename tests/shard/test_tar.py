"""Headers of tars: the same members as Python's tarfile finds, and nothing from a tar that is not whole."""

import gzip
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2f_dist.shard import tar
from t2f_dist.shard.tar import DamagedTar, Member
from tests.shard.tars import FORMATS, pax, record, signed, written

TYPES = [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "link",
    tarfile.FIFOTYPE: "fifo",
}
LETTERS = st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"])
NAMES = st.lists(st.text(LETTERS, min_size=1, max_size=70), min_size=1, max_size=5).map("/".join)
ENTRIES = st.lists(st.tuples(NAMES, st.sampled_from(TYPES), st.binary(max_size=1500)), max_size=8)


def scanned(content: bytes, tmp_path: Path) -> list[Member]:
    path = tmp_path / "00000.tar"
    path.write_bytes(content)
    return list(tar.scan(path))


def refused(content: bytes, tmp_path: Path) -> DamagedTar:
    with pytest.raises(DamagedTar) as error:
        scanned(content, tmp_path)
    assert str(error.value).startswith("00000.tar: damaged at byte ") and "\n" not in str(error.value)
    assert error.value.position <= len(content)
    return error.value


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, mtime=st.sampled_from([0, 1.5, 2**34]))
def test_the_same_members_as_tarfile(tmp_path: Path, form: str, entries: list, mtime: float):
    content = written(entries, form, mtime if form != "ustar" else 0)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [Member(m.name, KINDS[m.type], m.offset_data, m.size) for m in archive]
    found = [member._replace(name=member.name.rstrip("/")) for member in scanned(content, tmp_path)]
    assert found == [member._replace(name=member.name.rstrip("/")) for member in expected]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, form=st.sampled_from(sorted(FORMATS)), share=st.floats(0, 1, exclude_max=True))
def test_truncation_at_any_byte(tmp_path: Path, entries: list, form: str, share: float):
    content = written(entries, form)
    end = len(content.rstrip(b"\0"))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            end = member.offset_data + -(-member.size // 512) * 512
    refused(content[: int(share * (end + 1024))], tmp_path)
    assert scanned(content[: end + 1024], tmp_path) == scanned(content, tmp_path)  # the padding may be cut


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_of_a_header(tmp_path: Path, data: st.DataObject):
    content = bytearray(written([("a/1.jpg", b"0", b"x" * 700), ("a/1.txt", b"0", b"y")]))
    before = scanned(bytes(content), tmp_path)
    place = data.draw(st.sampled_from([0, 512 + 1024])) + data.draw(st.integers(0, 511))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        assert scanned(bytes(content), tmp_path) == before  # of the checksum's own field: a space for a NUL
    except DamagedTar:
        return
    assert place % 512 in range(148, 156)


def test_old_and_odd_headers(tmp_path: Path):
    content = bytearray(written([("a.jpg", b"0", b"abc"), ("ä.txt", b"0", b"")]))
    content[257:265] = bytes(8)  # no magic: the format of Unix version 7
    content[345:350] = b"never"  # a prefix is part of the name in ustar alone
    assert [member.name for member in scanned(signed(content, 0), tmp_path)] == ["a.jpg", "ä.txt"]
    content[156] = 0
    content[0:6] = b"a.jpg/"
    with pytest.raises(DamagedTar, match="a folder that claims 3 bytes"):  # of which readers think differently
        scanned(signed(content, 0), tmp_path)
    old = bytearray(written([("ä.jpg", b"0", b"abc")]))
    total = sum(old[:148]) + sum(old[156:512]) + 256 - 256 * sum(byte > 127 for byte in old[:512])
    old[148:156] = b"%06o\0 " % total  # of writers whose bytes were signed
    assert scanned(bytes(old), tmp_path)[0].name == "ä.jpg"


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (b"-0000000001\0", "a size of"),
        (b"\xff" * 12, "a size of"),  # -1 in base 256
        (b"\x80" + b"\xff" * 11, "a size of"),
        (b"\x80" + bytes(6) + b"\x7f" + b"\xff" * 4, "reaches past the end of the file"),
        (b"77777777777\0", "reaches past the end of the file"),
        (b"0000000 001\0", "a size of"),
        (b"0000000_001\0", "a size of"),
        (b"00000000009\0", "a size of"),
        (b"0x000000001\0", "a size of"),
    ],
)
def test_sizes_that_are_none(tmp_path: Path, field: bytes, reason: str):
    content = bytearray(written([("a.jpg", b"0", b"abc")]))
    content[124:136] = field
    assert reason in refused(signed(content, 0), tmp_path).reason


def test_a_size_in_base_256(tmp_path: Path):
    content = bytearray(written([("a.jpg", b"0", b"abc"), ("b.jpg", b"0", b"d")]))
    content[124:136] = b"\x80" + (3).to_bytes(11, "big")
    assert [member.size for member in scanned(signed(content, 0), tmp_path)] == [3, 1]


FILE = written([("plain.jpg", b"0", b"abc")])


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (pax(record("size", "-5")), "a size of"),
        (pax(record("size", "9" * 19)), "a size of"),
        (pax(record("size", str(2**62))), "reaches past the end"),
        (pax(record("size", "1") + record("size", "2")), "a size of"),
        (pax(record("path", "a") + record("path", "b")), "two names"),
        (pax(record("path", "a")) + pax(record("path", "b")), "two extended headers of a kind"),
        (pax(b"a\0", b"L") + pax(record("path", "b")), "two names"),
        (pax(b"99999 path=a\n"), "records are cut"),
        (pax(b"6 path=a\n"), "records are cut"),
        (pax(b"0 path=a\n"), "records are cut"),
        (pax(b"\xff\xfe"), "records are cut"),
        (pax(record("path", "a" * 70_000)), "extended header of 70"),
        (pax(b"a" * 70_000, b"L"), "extended header of 70000 bytes"),
        (pax(record("size", "3"), b"g"), "a global header that sets size"),
        (pax(record("path", "x"), b"g"), "a global header that sets path"),
    ],
    ids=range(15),
)
def test_extended_headers_that_readers_take_differently(tmp_path: Path, before: bytes, reason: str):
    error = refused(before + FILE, tmp_path)
    assert reason in error.reason
    assert error.position % 512 == 0


def test_extended_headers(tmp_path: Path):
    comment = pax(record("comment", "of git archive"), b"g")
    assert scanned(comment + FILE, tmp_path) == [Member("plain.jpg", "file", 1536, 3)]
    named = pax(record("mtime", "1.5") + record("path", "d/ä.jpg") + record("size", "3"))
    assert scanned(comment + named + FILE, tmp_path) == [Member("d/ä.jpg", "file", 2560, 3)]
    assert scanned(pax(b"link\0", b"K") + pax(b"long.jpg\0rest", b"L") + FILE, tmp_path)[0].name == "long.jpg"
    sparse = pax(record("GNU.sparse.major", "1") + record("GNU.sparse.name", "real.jpg") + record("path", "made/up"))
    (member,) = scanned(sparse + FILE, tmp_path)
    assert (member.name, member.kind) == ("real.jpg", "sparse")
    assert "extended header without its member" in refused(named + bytes(10240), tmp_path).reason


def test_old_sparse_files_have_a_map_of_their_own(tmp_path: Path):
    content = bytearray(FILE)
    content[156:157], content[257:265], content[482] = b"S", b"ustar  \0", 1
    content[512:512] = bytes(504) + b"\1" + bytes(7) + bytes(512)  # two blocks more of it
    found = scanned(signed(content, 0) + b"", tmp_path)
    assert found == [Member("plain.jpg", "sparse", 512 * 3, 3)]


@pytest.mark.parametrize("opened", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tars(tmp_path: Path, opened: str):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=opened) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        archive.addfile(tarfile.TarInfo("a.jpg"))
    assert "unpack it first" in refused(stream.getvalue(), tmp_path).reason
    assert "unpack it first" in refused(gzip.compress(FILE), tmp_path).reason
    assert "zstd" in refused(b"\x28\xb5\x2f\xfd" + bytes(600), tmp_path).reason


def test_what_is_no_tar_and_what_follows_one(tmp_path: Path):
    assert "an empty file" in refused(b"", tmp_path).reason
    assert "not a tar" in refused(b"<html>" * 1000, tmp_path).reason
    assert "not a tar" in refused(b"x", tmp_path).reason
    assert "no mark of the end" in refused(FILE[:1024], tmp_path).reason
    assert "cut off in the mark of the end" in refused(FILE[: 1024 + 512], tmp_path).reason
    assert "tars put together" in refused(FILE + FILE, tmp_path).reason  # every reader stops after the first
    assert "tars put together" in refused(FILE + bytes(2 << 20), tmp_path).reason
    two = bytearray(written([("a.jpg", b"0", b"abc"), ("b.jpg", b"0", b"abc")]))
    two[1024:1536] = bytes(512)
    assert refused(bytes(two), tmp_path).position == 1024
    assert scanned(bytes(10240), tmp_path) == []


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (Member("a.jpg", "link", 0, 0), "is a link"),
        (Member("a.jpg", "device", 0, 0), "is a device"),
        (Member("a.jpg", "fifo", 0, 0), "is a fifo"),
        (Member("a.jpg", "sparse", 0, 0), "is not a plain file"),
        (Member("a.jpg", "other", 0, 0), "is not a plain file"),
        (Member("/etc/a.jpg", "file", 0, 0), "leads out"),
        (Member("../a.jpg", "file", 0, 0), "leads out"),
        (Member("a/../../b.jpg", "file", 0, 0), "leads out"),
        (Member("a\\b.jpg", "file", 0, 0), "leads out"),
        (Member("a\nb.jpg", "file", 0, 0), "control characters"),
        (Member("a\0b.jpg", "file", 0, 0), "control characters"),
        (Member("a\x9bb.jpg", "file", 0, 0), "control characters"),
        (Member("\udcff.jpg", "file", 0, 0), "control characters"),
        (Member("", "file", 0, 0), "is no name"),
        (Member("./", "file", 0, 0), "is no name"),
        (Member("a" * 2000, "file", 0, 0), "a name of 2000 letters"),
    ],
)
def test_members_that_are_not_read(member: Member, reason: str):
    found = tar.fault(member)
    assert reason in found and found.isprintable() and len(found) < 300


@pytest.mark.parametrize("name", ["000000001.jpg", "./a/b.jpg", "a b/ä.jpg", "..a/b..jpg", "日本.txt", ".hidden.jpg"])
def test_members_that_are(name: str):
    assert tar.fault(Member(name, "file", 0, 0)) == ""


BOUNDED = """
import resource, sys
from t2f_dist.shard import tar
resource.setrlimit(resource.RLIMIT_AS, (80 << 20,) * 2)
print(sum(1 for member in tar.scan(sys.argv[1])))
"""


def test_memory_is_bounded(tmp_path: Path):
    """A tar with payloads of 8 TB, none of which stands on the disk; and 5,000 members."""
    path = tmp_path / "large.tar"
    small = written([(f"{number:09d}.txt", b"0", b"x") for number in range(5_000)])
    with open(path, "wb") as stream:
        stream.write(small[: 5_000 * 1024])
        for name in ("a.jpg", "b.jpg"):
            header = tarfile.TarInfo(name)
            header.size = 1 << 42
            stream.write(header.tobuf(tarfile.GNU_FORMAT))
            stream.seek(header.size, io.SEEK_CUR)
        stream.write(bytes(10240))
    done = subprocess.run([sys.executable, "-c", BOUNDED, path], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("5002\n", "")
