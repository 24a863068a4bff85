"""HTML that is made of values nobody vouches for: all text is escaped, in the one place where it becomes markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9:-]*")
# HTML allows neither; a stray one would be shown as whatever the browser likes.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
EMPTY = {"br", "img", "line", "link", "meta", "rect"}


class Markup:
    """A piece of HTML that is safe to stand in a page. Only this module makes them."""

    def __init__(self, html: str):
        self.html = html


Content = str | Markup
Attributes = Mapping[str, str | int | float]


def escaped(text: str) -> str:
    """Text as it may stand between tags and in a quoted attribute."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", text))


def element(name: str, attributes: Attributes, *content: Content) -> Markup:
    """One element; content that is text is escaped, and so are all values of attributes."""
    assert all(_NAME.fullmatch(each) for each in (name, *attributes)), "names are written here, never read"
    opened = name + "".join(f' {key}="{escaped(str(value))}"' for key, value in attributes.items())
    if name in EMPTY and not content:
        return Markup(f"<{opened}>" if name in ("br", "img", "link", "meta") else f"<{opened}/>")
    return Markup(f"<{opened}>{joined(content).html}</{name}>")


def joined(parts: Iterable[Content]) -> Markup:
    """One after the other; what is text is escaped."""
    return Markup("".join(part.html if isinstance(part, Markup) else escaped(part) for part in parts))


def style(css: str) -> Markup:
    """A style sheet of our own, as it is: browsers decode nothing in it."""
    assert "</" not in css
    return Markup(f"<style>{css}</style>")


def document(head: Markup, body: Markup) -> str:
    """A whole page, in English."""
    return f'<!doctype html>\n<html lang="en">\n<head>{head.html}</head>\n<body>{body.html}</body>\n</html>\n'
