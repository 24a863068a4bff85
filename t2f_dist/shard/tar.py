"""The headers of a tar that somebody else wrote: which members it has, and where their bytes stand.

Of a tar only what all readers understand alike is accepted: ustar, the old format without a magic, GNU's long names
and large sizes, and PAX. What two readers could take for different members (two long names for one, a global header
that renames, a folder with content) is damage, and so is whatever `tarfile` and webdataset read as a shorter tar
without a word: a header whose checksum is wrong, a member past the end, an end without its mark.

Nothing is unpacked, no payload is read, and memory does not grow with the tar.
"""

import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Literal, NamedTuple

BLOCK = 512
EXTENSION_BYTES_MAX = 1 << 16  # of a PAX header or a long name
PADDING_BYTES_MAX = 1 << 20  # zeros after the mark of the end: writers fill up a record of some kilobytes
NAME_LENGTH_MAX = 1024
WINDOW = 1 << 15  # bytes read at once: several small members, and not much of a large one
SIZE_MAX = (1 << 63) - 1

Kind = Literal["file", "folder", "link", "device", "fifo", "sparse", "other"]

# name, size, checksum, type, magic, prefix
_HEADER = Struct("100s24x12s12x8sc100x8s80x155s12x")
# Mode, owner, group, size and time as nearly all writers put them; the numbers of a device.
_NUMBERS = re.compile(rb"(?:[0-7]{7}\0){3}(?:[0-7]{11}[\0 ]){2}")
_DEVICE = re.compile(rb"(?:0{7}\0|\0{8}){2}")
_NUMBER_FIELDS = ((100, 8), (108, 8), (116, 8), (136, 12), (329, 8), (337, 8))
_FILE = frozenset([b"0", b"\0", b"7"])
_KINDS: dict[bytes, Kind] = {b"1": "link", b"2": "link", b"3": "device", b"4": "device", b"5": "folder", b"6": "fifo"}
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
)
_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([^=\n\0]+)=")
_REFRAMING = re.compile(r"path|linkpath|size|GNU\.sparse\..*")
_PLAIN = re.compile(r"(?:\./)?[\w-][\w .+@,=-]*(?:/[\w-][\w .+@,=-]*)*", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class DamagedTar(ValueError):
    """Not a whole tar, or not one that all readers would read alike.

    Attributes:
        position: of the header at fault, in bytes from the beginning.
        reason: one line that does not name the tar.
    """

    def __init__(self, position: int, reason: str, tar: str = ""):
        super().__init__(f"{tar}{': ' if tar else ''}damaged at byte {position}: {reason}")
        self.position, self.reason, self.tar = position, reason, tar

    def __reduce__(self):  # raised in one process, shown in another
        return DamagedTar, (self.position, self.reason, self.tar)


class Member(NamedTuple):
    """One entry of a tar.

    Attributes:
        name: as it stands there, whatever it leads to; see `fault`.
        offset: of the payload, in bytes from the beginning of the tar.
        size: of the payload, in bytes; it lies in the tar as a whole.
    """

    name: str
    kind: Kind
    offset: int
    size: int


class _Extension:
    """What the headers before a member say of it."""

    def __init__(self) -> None:
        self.position = 0
        self.name: str | None = None
        self.size: int | None = None
        self.sparse = False
        self.seen: set[bytes] = set()  # types of header


def scan(path: str | Path) -> Iterator[Member]:
    """The members of a tar in order, folders and links among them, about half a million a second.

    The file is read once, by descriptor, so that one which becomes shorter meanwhile is damage too.

    Raises:
        OSError: it cannot be read.
        DamagedTar: see there; raised where the damage is met, after the members before it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would be waited for
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedTar(0, "not a plain file")
        size = status.st_size
        yield from scan_through(lambda length, start: os.pread(descriptor, length, start), size)
    except DamagedTar as error:
        raise DamagedTar(error.position, error.reason, os.path.basename(path)) from None
    finally:
        os.close(descriptor)


def scan_through(read: Callable[[int, int], bytes], size: int) -> Iterator[Member]:
    """As `scan`, of a tar that is not a file here.

    Args:
        read: called with a length and a start, gives those bytes, or fewer where the tar ends. Starts grow from call
            to call, but for that of an extended header, which is read a second time, and of the first.
        size: of the tar, in bytes.
    """
    return _Scan(read, size).members()


def fault(member: Member) -> str:
    """Why a member is not to be read, though the tar is sound; empty if it may be. Folders are no fault."""
    name = member.name
    if member.kind in ("link", "device", "fifo"):
        return f"{shown(name)} is a {member.kind}"
    if member.kind in ("sparse", "other"):
        return f"{shown(name)} is not a plain file"
    if len(name) <= NAME_LENGTH_MAX and _PLAIN.fullmatch(name):
        return ""  # nearly always
    if len(name) > NAME_LENGTH_MAX:
        return f"a name of {len(name)} letters ({shown(name)}), more than {NAME_LENGTH_MAX}"
    if _CONTROL.search(name):
        return f"{shown(name)} has control characters in its name, or none of UTF-8"
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        return f"{shown(name)} leads out of the folder"
    if not name.strip("./"):
        return f"{shown(name)} is no name"
    return ""


def shown(name: str) -> str:
    """A name for one line of a message: printable, and not too long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name[:200])
    return text if len(name) <= 200 else f"{text}..."


class _Scan:
    def __init__(self, read: Callable[[int, int], bytes], size: int):
        self.read = read
        self.size = size
        self.start = 0  # of the window in the tar
        self.window = b""

    def members(self) -> Iterator[Member]:
        position, window = 0, b""
        extension = _Extension()
        unpack, adler32, plain = _HEADER.unpack_from, zlib.adler32, _FILE
        while True:
            at = position - self.start
            if at < 0 or at + BLOCK > len(window):
                window, at = self._move(position), 0
            name, size_field, checksum, kind, magic, prefix = unpack(window, at)
            # The low half of adler32 is one more than the sum of the bytes, and of 256 bytes it cannot overflow.
            total = (adler32(window[at : at + 256]) & 0xFFFF) + (adler32(window[at + 256 : at + BLOCK]) & 0xFFFF)
            total += 254 - sum(checksum)  # as if its own field were blank
            if total - 256 == 0 and not checksum.strip(b"\0"):
                self._end(position, extension)
                return
            if _number(checksum) != total and not self._signed(at, checksum):
                raise DamagedTar(position, self._unlike(position))
            if not (_NUMBERS.match(window, at + 100) and _DEVICE.match(window, at + 329)):
                self._check_numbers(position, at)
            size = _number(size_field)
            if size is None or size > SIZE_MAX:
                raise DamagedTar(position, f"a size of {size_field!r}")
            if kind in b"xXLKg":
                if kind != b"g" and not extension.seen:
                    extension.position = position
                position = self._extend(position, kind, size, extension)
                continue
            text = _text(name)
            if prefix[0] and magic == b"ustar\x0000":
                text = f"{_text(prefix)}/{text}"
            if extension.seen:
                text = text if extension.name is None else extension.name
                size = size if extension.size is None else extension.size
            payload = position + BLOCK
            if kind in plain and not extension.sparse:
                # In the old format a folder is a file whose name ends in a slash.
                what: Kind = "folder" if kind == b"\0" and text.endswith("/") else "file"
            elif kind == b"S":
                what, payload = "sparse", self._after_map(position, at)
            else:
                what = "sparse" if extension.sparse else _KINDS.get(kind, "other")
            if size and what in ("folder", "link", "device", "fifo"):
                raise DamagedTar(position, f"a {what} that claims {size} bytes of content")
            following = payload + (size + BLOCK - 1 & -BLOCK)
            if following > self.size:
                raise DamagedTar(
                    position, f"{shown(text)} with {size} bytes reaches past the end of the file, {self.size} bytes"
                )
            yield Member(text, what, payload, size)
            position = following
            if extension.seen:
                extension = _Extension()

    def _move(self, position: int) -> bytes:
        """Put the window where a header is."""
        content = self.read(WINDOW, position)
        if len(content) < BLOCK:
            if position == 0:
                raise DamagedTar(0, self._unlike(0))
            rest = f"{len(content)} bytes of a header" if content else "no mark of the end"
            raise DamagedTar(position, f"cut off: {rest}")
        self.start, self.window = position, content
        return content

    def _check_numbers(self, position: int, at: int) -> None:
        """Refuse a header with fields that say nothing to us, and for which tarfile takes it for the end."""
        for start, length in _NUMBER_FIELDS:
            field = self.window[at + start : at + start + length]
            if field[0] != 0xFF and _number(field) is None:
                raise DamagedTar(position, f"a header with {field!r} in place of a number")

    def _signed(self, at: int, checksum: bytes) -> bool:
        """Whether the checksum is that of some old writers, who took the bytes for signed."""
        block = self.window[at : at + BLOCK]
        total = sum(block) - 256 * sum(byte > 127 for byte in block) + 256
        total -= sum(checksum) - 256 * sum(byte > 127 for byte in checksum)
        return _number(checksum) == total

    def _unlike(self, position: int) -> str:
        """Why there is no header."""
        if position:
            return "no header: its checksum is wrong"
        beginning = self.read(BLOCK, 0)
        if not beginning:
            return "an empty file"
        packed = next((name for magic, name in _PACKED if beginning.startswith(magic)), None)
        return (
            f"compressed ({packed}); unpack it first" if packed else "not a tar: the first header's checksum is wrong"
        )

    def _end(self, position: int, extension: _Extension) -> None:
        """Check the mark of the end, two blocks of zeros, and that only zeros follow: else it is not the end."""
        if extension.seen:
            raise DamagedTar(extension.position, "an extended header without its member")
        rest = self.size - position
        if rest < 2 * BLOCK:
            raise DamagedTar(position, f"cut off in the mark of the end: {rest} bytes of {2 * BLOCK}")
        if rest > PADDING_BYTES_MAX:
            raise DamagedTar(position, f"{rest} bytes after the mark of the end: tars put together, or zeroed members")
        for start in range(position, self.size, WINDOW):
            content = self.read(WINDOW, start)
            if content.strip(b"\0"):
                raise DamagedTar(position, "more after the mark of the end: tars put together, or zeroed members")
            if len(content) < min(WINDOW, self.size - start):
                raise DamagedTar(position, "the file became shorter while it was read")

    def _after_map(self, position: int, at: int) -> int:
        """Where the payload of GNU's old sparse file begins: its map may go on in blocks of its own."""
        more, payload = self.window[at + 482], position + BLOCK
        while more:
            block = self.read(BLOCK, payload)
            if len(block) < BLOCK:
                raise DamagedTar(position, "cut off in the map of a sparse file")
            more, payload = block[504], payload + BLOCK
        return payload

    def _extend(self, position: int, kind: bytes, size: int, extension: _Extension) -> int:
        """Read a header that says something of the next; returns where that one begins."""
        if size > EXTENSION_BYTES_MAX:
            raise DamagedTar(position, f"an extended header of {size} bytes; at most {EXTENSION_BYTES_MAX} are read")
        length = size + BLOCK - 1 & -BLOCK
        content = self.read(length, position + BLOCK)
        if len(content) < length:
            raise DamagedTar(position, "cut off in an extended header")
        content = content[:size]
        kind = b"x" if kind == b"X" else kind
        if kind == b"g":
            renames = next((key for key, _ in _records(content, position) if _REFRAMING.fullmatch(key)), None)
            if renames:
                raise DamagedTar(position, f"a global header that sets {renames} of all that follows")
            return position + BLOCK + length
        if kind in extension.seen:
            raise DamagedTar(position, "two extended headers of a kind for one member")
        extension.seen.add(kind)
        if kind == b"L":
            self._name(position, _text(content), extension)
        elif kind == b"x":
            for key, value in _records(content, position):
                self._apply(position, key, value, extension)
        return position + BLOCK + length

    def _apply(self, position: int, key: str, value: bytes, extension: _Extension) -> None:
        if key == "path" or key == "GNU.sparse.name":
            if key == "path" and extension.sparse and extension.name is not None:
                return  # that of a sparse file is made up, and its real name was given
            self._name(position, value.decode("utf-8", "surrogateescape"), extension, again=key != "path")
        elif key == "size":
            if extension.size is not None or not re.fullmatch(rb"[0-9]{1,19}", value) or int(value) > SIZE_MAX:
                raise DamagedTar(position, f"a size of {value[:40]!r}")
            extension.size = int(value)
        extension.sparse = extension.sparse or key.startswith("GNU.sparse.")

    def _name(self, position: int, name: str, extension: _Extension, again: bool = False) -> None:
        if extension.name is not None and not again:
            raise DamagedTar(position, "two names for one member")
        extension.name = name


def _number(field: bytes) -> int | None:
    """A number of a header, octal or GNU's base 256; None if it is none, or negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:  # an 8 or a 9
        return None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _records(content: bytes, position: int) -> Iterator[tuple[str, bytes]]:
    """The records of a PAX header, "LENGTH KEY=VALUE\\n" each, that fill it exactly."""
    start = 0
    while start < len(content):
        match = _RECORD.match(content, start)
        end = start + int(match[1]) if match else 0
        if match is None or end <= match.end() or end > len(content) or content[end - 1] != ord("\n"):
            raise DamagedTar(position, f"a PAX header whose records are cut at {start} of {len(content)} bytes")
        yield match[2].decode("utf-8", "replace"), content[match.end() : end - 1]
        start = end
