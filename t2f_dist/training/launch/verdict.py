"""Which rank it is that the others wait for, from what all of them wrote down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from t2f_dist.training.launch.guard import STOPPED
from t2f_dist.training.launch.place import LEFT, WAITS_FOR_GPU, WORKS, Place

MOVING = 0.75  # of its bound: a rank that came to another phase within it moves
SILENT = 0.5  # of the bound: a rank that wrote nothing for so long does not answer
NUM_NAMED = 3  # ranks that a line names


def judge(
    places: Sequence[Place], silent: Mapping[int, float], bound: float, patient: bool, state: Callable[[Place], str]
) -> str | None:
    """One line on the ranks that hold up the others; None while one of them moves, so that the wait may end.

    places: of all ranks; silent: by rank, seconds for which nothing new was read of it; bound: seconds after which the
    rank that asks hangs, where it stands; patient: whether moving ranks are waited for; state: of a process, by the
    kernel's letter, empty where this host cannot tell.
    """
    mute = [place for place in places if is_mute(place, silent, bound)]
    if mute:
        return _named(mute, lambda place: _silence(place, silent[place.rank], state(place)))
    if patient and any(place.state != LEFT and place.seconds < MOVING * place.bound for place in places):
        return None
    behind_first = sorted(places, key=lambda place: (place.images_seen, place.rank))
    in_state = {name: [place for place in behind_first if place.state == name] for name in (WORKS, LEFT, WAITS_FOR_GPU)}
    if in_state[WORKS]:
        return _named(in_state[WORKS], hangs)
    if in_state[LEFT]:
        waiting = _others(places)
        return _named(in_state[LEFT], lambda p: f"rank {p.rank} left at {p.images_seen:,} images, and {waiting}")
    # Where some wait in an exchange on the CPU and some for their GPUs, the GPUs come first.
    if len(in_state[WAITS_FOR_GPU]) not in (0, len(places)):
        return _named(in_state[WAITS_FOR_GPU], hangs)
    return f"all ranks wait for each other, {_others(places)}: {_between(places)}"


def is_mute(place: Place, silent: Mapping[int, float], bound: float) -> bool:
    """Whether a rank answers no more."""
    return place.state != LEFT and silent.get(place.rank, 0.0) >= SILENT * bound


def hangs(place: Place) -> str:
    return f"rank {place.rank} hangs {place} ({place.process})"


def cut_off(own: Place, why: str) -> str:
    """One line where nothing can be learned of the others, for the store does not answer."""
    if own.state == WORKS:
        return hangs(own)
    return (
        f"rank {own.rank} waits {own}, and the store of the launch is not reached ({why}): {own.host} is cut off from"
        " the host of the store, or that one is gone"
    )


def _silence(place: Place, seconds: float, state: str) -> str:
    if state in STOPPED:
        why = "it is stopped"
    elif state:
        why = f"it is alive (state {state}), so that a thread keeps its interpreter, or the kernel keeps it"
    else:
        why = "it is stopped, or its host or network is gone"
    return (
        f"rank {place.rank} ({place.process}) has not answered for {seconds:.0f} s and more: {why}; it was last seen"
        f' in "{place.phase}" at {place.images_seen:,} images'
    )


def _named(places: Sequence[Place], line: Callable[[Place], str]) -> str:
    lines = [line(place) for place in places[:NUM_NAMED]]
    more = len(places) - len(lines)
    return "; ".join(lines) + (f"; and {more} more ranks" if more else "")


def _others(places: Sequence[Place]) -> str:
    """Where those stand that wait: one of each place."""
    distinct = {(place.phase, place.images_seen): place for place in reversed(places) if place.state != LEFT}
    ordered = sorted(distinct.values(), key=lambda place: (place.images_seen, place.rank))
    return _named(ordered, lambda place: f"rank {place.rank} {place}")


def _between(places: Sequence[Place]) -> str:
    hosts = sorted({place.host for place in places})
    if len({place.images_seen for place in places}) > 1 or len({place.phase for place in places}) > 1:
        apart = "they are in different exchanges, or "
    else:
        apart = ""
    if len(hosts) == 1:
        return f"{apart}what they send on {hosts[0]} does not arrive"
    named = ", ".join(hosts[:NUM_NAMED]) + (f" and {len(hosts) - NUM_NAMED} more" if len(hosts) > NUM_NAMED else "")
    return f"{apart}the network between {named} is cut"
