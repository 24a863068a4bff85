"""Tars made by hand, header by header."""

import io
import tarfile

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def written(entries: list[tuple[str, bytes, bytes]], form: str = "ustar", mtime: float = 0) -> bytes:
    """A tar of (name, type, content); what does not fit the form is left out."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=FORMATS[form]) as archive:
        for name, kind, content in entries:
            header = tarfile.TarInfo(name)
            header.type, header.mtime = kind, mtime
            header.linkname = f"{name}x" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            header.size = len(content) if header.isreg() else 0
            try:
                archive.addfile(header, io.BytesIO(content[: header.size]))
            except ValueError:
                assert form == "ustar"
    return stream.getvalue()


def signed(content: bytes | bytearray, position: int) -> bytes:
    """With the checksum of the header at `position` made right."""
    content = bytearray(content)
    content[position + 148 : position + 156] = b" " * 8
    content[position + 148 : position + 156] = b"%06o\0 " % sum(content[position : position + 512])
    return bytes(content)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode()
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest
