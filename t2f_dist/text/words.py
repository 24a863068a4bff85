"""A caption as words."""

import re

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words(caption: str) -> list[str]:
    """The words of a caption, lower-case, in order; punctuation dropped, an inner apostrophe kept (`man's`).

    A hyphen separates: `light-brown` and `light brown` are the same two words.
    """
    return _WORD.findall(caption.lower().replace("\u2019", "'"))
