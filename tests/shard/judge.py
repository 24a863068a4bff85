"""Whether what was read of a changed directory of shards is right, or refused as it should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2f_dist.config.condition import Lstm
from t2f_dist.data.order import Place
from t2f_dist.data.shards import Shards
from t2f_dist.inspection.verify import verify
from t2f_dist.shard import format as shard_format

REFUSED = (ValueError, OSError)


class Escape(AssertionError):
    """Something other than the right answer or a refusal in one line."""


def refusal(error: Exception) -> str:
    """The name of a refusal; Escape where it is not one."""
    if isinstance(error, Escape):
        raise error
    message = str(error)
    if not isinstance(error, REFUSED) or "\n" in message or len(message) > 3000:
        raise Escape(f"{type(error).__name__}: {message[:500]}") from error
    return "refused"


def contents(folder: Path) -> set[bytes]:
    """All that the samples of a directory hold."""
    found: set[bytes] = {b""}
    for split in ("train", "validation"):
        shards = Shards(folder, split)
        for number, shard in enumerate(shards.listed):
            for row in range(shard.num_samples):
                place = Place(number, row)
                found |= (
                    set(shards.members(place, shard_format.TAR_MEMBERS).values()) if shards.recipe is None else set()
                )
                found |= set(shards.members(place, ("image", "meta")).values())
                found.add(shards.captions(place))
                for resolution in (4, 8, 16):
                    level = shards.level(place, resolution)
                    found |= {level.tobytes()} if level is not None else set()
        shards.close()
    return found


def check(folder: Path, right: set[bytes], honest: bool) -> str:
    """Read all of a changed directory: every member is one of the right ones, or refused.

    Args:
        honest: only bytes were changed, and nothing was signed anew: then no others may come out either.
    """
    outcomes = set()
    for split in ("train", "validation"):
        try:
            shards = Shards(folder, split)
        except Exception as error:
            outcomes.add(refusal(error))
            continue
        for number, shard in enumerate(shards.listed):
            for row in range(min(shard.num_samples, 20)):
                outcomes.add(_read(shards, Place(number, row), right, honest))
        shards.close()
        outcomes.add(_trained(folder, split))
    try:
        outcomes.add("damage reported" if verify(folder, decode=True, progress=False) else "sound")
    except Exception as error:
        outcomes.add(refusal(error))
    if honest and outcomes == {"right", "sound"}:
        return "same"
    return "found" if outcomes & {"refused", "damage reported"} else "other, consistent"


def _trained(folder: Path, split: str) -> str:
    """What training makes of it: an item near and one far away."""
    # Here, since torch takes gigabytes of addresses, of which some who import this have fewer.
    from t2f_dist.data.dataset import Wanted
    from t2f_dist.data.indexed import IndexedSamples

    wanted = Wanted(modalities={"caption": Lstm()}, mismatched=frozenset({"condition"}))
    try:
        samples = IndexedSamples(folder, split, seed=0, window_shards=16, wanted=wanted)
    except Exception as error:
        return refusal(error)
    outcome = "right"
    for position in (0, 10**12):
        try:
            damaged = bool(samples[position, 8].damage)
        except Exception as error:
            refusal(error)
            damaged = True
        outcome = "refused" if damaged else outcome
    samples.close()
    return outcome


def _read(shards: Shards, place: Place, right: set[bytes], honest: bool) -> str:
    outcome = "right"
    readers: list[Callable[[], Any]] = [
        lambda: shards.members(place, ("image", "meta")).values(),
        lambda: shards.members(place, ("speech", "embeddings")).values() if shards.recipe is None else (),
        lambda: [shards.captions(place)],
        lambda: [level.tobytes() for size in (4, 8, 16) if (level := shards.level(place, size)) is not None],
        lambda: shards.picture(shards.members(place, ("image",))["image"], 8) is None or (),
        lambda: shards.identity_name(place, shards.members(place, ("meta",))["meta"]) and (),
        lambda: shard_format.captions(shards.captions(place)) and (),
        lambda: shards.key(place) and (),
    ]
    for read in readers:
        try:
            wrong = [content for content in read() or () if content not in right]
        except Exception as error:
            refusal(error)
            outcome = "refused"
            continue
        if wrong and honest:
            raise Escape(f"wrong bytes accepted at {place}: {wrong[0][:60]!r}")
    return outcome
