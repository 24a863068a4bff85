"""Which checkpoints a run keeps, by their number and by their age."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Kept(NamedTuple):
    """A finished checkpoint.

    Attributes:
        images: seen when it was saved.
        saved: the time of the clock then, in seconds since 1970; None where it is not known.
    """

    name: str
    images: int
    saved: float | None


def superfluous(kept: Sequence[Kept], keep: int, keep_hours: float, now: float) -> list[str]:
    """The names of those that need not stay, the oldest first.

    The newest `keep` moments stay whatever any clock says: newest by images, not by time. So do those that were saved
    less than `keep_hours` before `now`. A time that is yet to come is a clock's that was wrong: such a checkpoint is
    as old as the next newer one. Of several of one moment, the last written stays.

    Args:
        kept: the newest first, and of one moment the last written first.
    """
    removed = []
    moments: set[int] = set()
    latest = now
    for each in kept:
        if each.images in moments:
            removed.append(each.name)
            continue
        moments.add(each.images)
        if each.saved is not None and each.saved <= now:
            latest = each.saved
        young = each.saved is not None and now - latest < keep_hours * 3600
        if len(moments) > keep and not young:
            removed.append(each.name)
    return removed[::-1]
