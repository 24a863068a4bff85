"""Which checkpoints stay, whatever the clocks say."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.storage.disk import Disk
from t2f_dist.training.checkpoints import stored
from t2f_dist.training.checkpoints.archive import DAMAGED, Archive
from t2f_dist.training.checkpoints.retention import Kept, superfluous
from tests.training.test_archive import FILES, moments, place, write  # noqa: F401

times = st.one_of(st.none(), st.floats(-1e12, 1e12), st.sampled_from([0.0, 1e9, 1e9 + 3600]))


@given(
    st.lists(st.tuples(st.integers(0, 20), times), max_size=20),
    st.integers(2, 5),
    st.floats(0, 1000),
    st.floats(-1e12, 1e12),
)
def test_whatever_the_clocks_say_the_newest_stay(found, keep: int, hours: float, now: float):
    ordered = sorted(found, key=lambda each: each[0], reverse=True)
    kept = [Kept(str(number), images, saved) for number, (images, saved) in enumerate(ordered)]
    removed = superfluous(kept, keep, hours, now)
    stay = [each for each in kept if each.name not in removed]
    newest = sorted({each.images for each in kept}, reverse=True)[:keep]
    assert [each.images for each in stay][: len(newest)] == newest
    assert len({each.images for each in stay}) == len(stay), "one of a moment"
    for images in newest:
        assert next(each for each in stay if each.images == images) == next(e for e in kept if e.images == images)
    assert superfluous(stay, keep, hours, now) == [], "what stays once stays"
    assert superfluous(kept, keep, 0, now) == superfluous(kept, keep, 0, 0), "by number alone, the clock is not asked"


@given(st.integers(3, 30), st.integers(2, 4), st.floats(0.5, 5), st.data())
def test_with_a_clock_that_is_right_age_alone_decides_and_a_wrong_one_passes(num: int, keep: int, hours: float, data):
    """One an hour. Of those whose time is wrong, the right ones know nothing."""
    now = 1_000_000.0
    right = [now - 3600 * number for number in range(num)]
    wrong = data.draw(st.sets(st.integers(0, num - 1), max_size=num // 2))
    shift = data.draw(st.sampled_from([1e7, 1e9]))
    kept = [Kept(str(n), num - n, right[n] + (shift if n in wrong else 0)) for n in range(num)]
    removed = set(superfluous(kept, keep, hours, now))
    for number in range(num):
        if number >= keep and number not in wrong:
            assert (str(number) in removed) == (now - right[number] >= hours * 3600), number
        elif number >= keep:  # as old as the next newer one that is right
            newer = [right[other] for other in range(number) if other not in wrong]
            assert (str(number) in removed) == (now - (newer[-1] if newer else now) >= hours * 3600), number


def test_by_age_too_from_the_time_that_is_written_in_them(place: str):  # noqa: F811
    now = [1_000_000.0]
    archive = Archive(place, keep=2, keep_hours=2.5, clock=lambda: now[0])
    for images in range(8, 80, 8):
        now[0] += 3600
        write(archive, images)
        archive.prune()
    assert moments(archive) == [72, 64, 56]
    now[0] += 30 * 365 * 86400  # the clock jumps ahead
    write(archive, 80)
    archive.prune()
    assert moments(archive) == [80, 72]
    now[0] = 0.0  # and back, before all that is there
    for images in (88, 96, 104):
        now[0] += 3600
        write(archive, images)
        archive.prune()
    assert moments(archive)[:2] == [104, 96]
    now[0] += 3 * 3600
    write(archive, 112)
    archive.prune()
    assert moments(archive) == [112, 104], "times that are yet to come keep nothing for ever"


def test_damaged_ones_that_cannot_be_marked_do_not_count_as_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a full disk; the run goes on from the one before, and its next ones are of fewer images than the damaged."""
    archive = Archive(tmp_path / "checkpoints", keep=2)
    for images in (8, 16, 24, 32):
        write(archive, images)
    for images in (24, 32):
        (tmp_path / "checkpoints" / stored.named(images, 1) / FILES[0]).write_bytes(b"")
    write_file = Disk.write

    def full(self: Disk, name: str, *rest: Any) -> None:
        if name.endswith(DAMAGED):
            raise OSError("No space left on device")
        write_file(self, name, *rest)

    monkeypatch.setattr(Disk, "write", full)
    again, said = Archive(tmp_path / "checkpoints", keep=2), []
    found = again.newest_valid(said.append)
    assert found is not None and found.body["images_seen"] == 16
    assert len(said) == 2 and all("could not be marked" in line for line in said)
    for images in (20, 21, 22):
        write(again, images)
        again.prune()
        assert images in moments(again), "what was just written stays"
    assert moments(again) == [32, 24, 22, 21]
