"""URLs of files and folders: which schemes there are, how names are joined to them, how they are shown.

A place is a local path or a URL. Whatever begins with a scheme (`letters:`), as urllib.parse and with it webdataset
read it, counts as a URL, and only those of SCHEMES are let through: `pipe:`, of which webdataset makes a shell, is not
among them, nor are fsspec's chains (`zip::...`), which reach any file and any scheme.
"""

import functools
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

SCHEMES = ("file", "s3", "gs", "http", "https", "hf")
EXPANDED_MAX = 1_000_000  # places that one pattern may name

_WEB = ("http", "https")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
_DEPTH_MAX = 10  # braces within braces
_SHOWN_MAX = 300  # characters of a place in a message


def scheme(place: str | Path) -> str:
    """The scheme in small letters, "" of a local path; found as urllib.parse finds it, past spaces and line breaks."""
    match = _SCHEME.match(_CONTROL.sub("", str(place)).lstrip())
    return match[1].lower() if match else ""


def is_url(place: str | Path) -> bool:
    """Whether a place begins with a scheme, allowed or not: `check` says which."""
    return scheme(place) != ""


@functools.lru_cache(maxsize=1024)  # a folder is asked about for each of its files
def check(place: str | Path) -> str:
    """A place as it may be used: a local path as it is, a URL of one of SCHEMES with that in small letters.

    Raises:
        ValueError: another scheme, a chain (`::`), control characters, a `..`, credentials in front of a bucket, or
            no host, bucket or absolute path. One line, which names the place without its secrets.
    """
    text = str(place)
    if not text.strip():
        raise ValueError("an empty path or URL")
    if _CONTROL.search(text):
        raise ValueError(f"{shown(text)!r}: a path or URL with control characters")
    name = scheme(text)
    if name and name not in SCHEMES:
        raise ValueError(
            f"{shown(text)!r}: the scheme {name[:40]!r} is not allowed, only {', '.join(SCHEMES)}; "
            "a local path with a colon in its first part is written with ./ before it"
        )
    if "::" in text:
        raise ValueError(f"{shown(text)!r}: chains of places (::) are not allowed; name one place")
    if not name:
        return text
    if re.match(r"[^/]*//redacted@", text.lstrip()) or text.endswith("?redacted"):
        raise ValueError(f"{shown(text)!r} was written down without its password or query: name the whole URL again")
    rest = text.lstrip()[len(name) + 1 :]
    if not rest.startswith("//"):
        raise ValueError(f"{shown(text)!r}: expected {name}:// and no other number of slashes")
    url = f"{name}:{rest}"
    host, path = _parts(url)
    if name == "file" and (host not in ("", "localhost") or not path.startswith("/")):
        raise ValueError(f"{shown(url)!r}: expected file:///absolute/path, of this machine")
    if name != "file" and not host:
        raise ValueError(f"{shown(url)!r}: no {'host' if name in _WEB else 'bucket or repository'} after {name}://")
    if name not in _WEB and "@" in host:
        raise ValueError(f"{shown(url)!r}: credentials are taken from the environment, not from the URL")
    decoded = unquote(path)
    if _CONTROL.search(decoded) or any(part in (".", "..") for part in decoded.split("/")):
        raise ValueError(f"{shown(url)!r}: a URL with . or .. or control characters in its path")
    return url


@functools.lru_cache(maxsize=1024)
def local(place: str | Path) -> Path | None:
    """The path of a local place, also of a file:// URL; None of any other. Raises ValueError as `check`."""
    url = check(place)
    name = scheme(url)
    if name == "file":
        return Path(unquote(_parts(url)[1]))
    return None if name else Path(place)


def join(folder: str | Path, name: str) -> str:
    """The place of a file in a folder.

    Args:
        name: relative, with /; what a URL of the web needs to have quoted is quoted here.

    Raises:
        ValueError: a name that leads out of the folder or holds empty steps, or a folder as in `check`.
    """
    place = check(folder)
    parts = name.split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name[:_SHOWN_MAX]!r}: expected the name of a file below its folder, without . or ..")
    kind = scheme(place)
    if not kind:
        return os.path.join(place, name)
    if _CONTROL.search(name):
        raise ValueError(f"{name[:_SHOWN_MAX]!r}: a name with control characters, which no URL has")
    if kind in _WEB:
        base, mark, query = place.partition("#")[0].partition("?")
        return base.rstrip("/") + "/" + quote(name, safe="/!$&'()*+,;=:@~") + mark + query
    return place.rstrip("/") + "/" + (quote(name) if kind == "file" else name)


def beside(folder: str | Path, named: str) -> str | None:
    """The place that a path names which a file in `folder` holds: relative to it, or absolute on the same disk.

    None of a path that begins with / in a folder of a URL, or that leads above its bucket or host: what comes from
    elsewhere names nothing on this machine. Raises ValueError as `check`.
    """
    path = local(folder)
    if path is not None:
        return os.path.normpath(os.path.join(os.path.abspath(path), named))
    place = check(folder)
    base, mark, query = place.partition("#")[0].partition("?") if scheme(place) in _WEB else (place, "", "")
    start, _, below = base.partition("://")[2].rstrip("/").partition("/")
    steps = unquote(below).split("/") if scheme(place) in _WEB else below.split("/")
    for step in named.split("/"):
        if step == "..":
            if not steps or steps == [""]:
                return None
            steps.pop()
        elif step not in ("", "."):
            steps.append(step)
    steps = [step for step in steps if step]
    if named.startswith("/") or not steps:
        return None
    try:
        return join(f"{scheme(place)}://{start}{mark}{query}", "/".join(steps))
    except ValueError:  # no URL has such a name
        return None


def split(place: str | Path) -> tuple[str, str]:
    """The folder of a file and its name in it, so that `join` brings back the place. Raises ValueError as `check`.

    The query of an http URL stays with the folder, where `join` looks for it.
    """
    url = check(place)
    kind = scheme(url)
    if not kind:
        folder, name = os.path.split(url)
        return folder or ".", name
    base, mark, query = url.partition("#")[0].partition("?") if kind in _WEB else (url, "", "")
    start = len(kind) + 3
    folder, _, name = base[start:].rstrip("/").rpartition("/")
    if not folder and kind != "file":
        raise ValueError(f"{shown(url)!r}: expected the URL of a file, with its name after the last slash")
    return base[:start] + (folder or "/") + mark + query, unquote(name) if kind in (*_WEB, "file") else name


def name(place: str | Path) -> str:
    """What stands after the last slash, without the query of an http URL; as `split`."""
    return split(place)[1]


def shown(place: str | Path) -> str:
    """A place for messages and logs: without user, password and query, and not longer than a few lines."""
    text = _CONTROL.sub(" ", str(place))
    kind = scheme(text)
    if kind:
        text = re.sub(r"^([^/]*//)[^/?#]*@", r"\1", text)
        if kind not in ("file", "s3", "gs", "hf"):  # in which ? and # are letters like any other
            text = re.split(r"[?#]", text, maxsplit=1)[0]
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."


def expand(pattern: str) -> list[str]:
    """The places that a pattern with braces names, in its order: `x-{000..099}.tar`, `{train,test}.tar`, nested too.

    A brace without a comma or a range, or one that is not closed, stands for itself. Ranges count up or down by one,
    with the zeros of their longer end where one of the ends begins with a zero.

    Raises:
        ValueError: more than EXPANDED_MAX places, or braces nested beyond reason.
    """
    return list(_product(pattern, pattern))


def _product(text: str, pattern: str) -> list[str]:
    found = [""]
    start = 0
    while start < len(text):
        choices, end = _choices(text, start, pattern)
        if len(found) * len(choices) > EXPANDED_MAX:
            raise ValueError(f"{shown(pattern)!r} names more than {EXPANDED_MAX:,} places; give several patterns")
        found = [before + choice for before in found for choice in choices]
        start = end
    return found


def _choices(text: str, start: int, pattern: str) -> tuple[list[str], int]:
    """What may stand from `start` on, and where it ends: plain text up to a brace, or what a brace names."""
    if text[start] != "{":
        end = text.find("{", start)
        end = len(text) if end < 0 else end
        return [text[start:end]], end
    depth, parts, begin = 0, [], start + 1
    for place in range(start, len(text)):
        if text[place] == "{":
            depth += 1
            if depth > _DEPTH_MAX:
                raise ValueError(f"{shown(pattern)!r}: braces in more than {_DEPTH_MAX} braces")
        elif text[place] == "," and depth == 1:
            parts.append(text[begin:place])
            begin = place + 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                parts.append(text[begin:place])
                return _named(parts, pattern), place + 1
    return ["{"], start + 1


def _named(parts: list[str], pattern: str) -> list[str]:
    """What a brace with these parts between its commas names."""
    if len(parts) > 1:
        found: list[str] = []
        for part in parts:
            found += _product(part, pattern)
            if len(found) > EXPANDED_MAX:
                raise ValueError(f"{shown(pattern)!r} names more than {EXPANDED_MAX:,} places; give several patterns")
        return found
    match = _RANGE.fullmatch(parts[0])
    if match is None:
        return ["{" + inner + "}" for inner in _product(parts[0], pattern)]
    first, last = int(match[1]), int(match[2])
    if abs(last - first) >= EXPANDED_MAX:
        raise ValueError(f"{shown(pattern)!r} names more than {EXPANDED_MAX:,} places; give several patterns")
    padded = any(len(end) > 1 and end[0] == "0" for end in match.groups())
    width = max(map(len, match.groups())) if padded else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _parts(url: str) -> tuple[str, str]:
    """Host, bucket or first part, and the path; what follows ? belongs to the path but for http."""
    kind, _, rest = url.partition("://")
    if kind in _WEB:
        try:
            parsed = urlsplit(url)
            _ = parsed.port
            return parsed.hostname or "", parsed.path
        except ValueError as error:
            raise ValueError(f"{shown(url)!r}: not a URL: {error}") from None
    host, slash, path = rest.partition("/")
    return host, slash + path
