"""What is evicted, against a model of it."""

import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2f_dist.storage import cache as cache_module
from t2f_dist.storage.cache import Cache, Held, Remote

MAX_BYTES = 1000
SIZES = [0, 90, 200, 250, 300, 400, 600, 1000]

numbers = st.integers(0, len(SIZES) - 1)
acts = st.one_of(
    st.tuples(st.just("get"), numbers),
    st.tuples(st.just("prefetch"), numbers),
    st.tuples(st.just("release"), numbers),
    st.tuples(st.just("pin"), st.lists(numbers, max_size=3, unique=True)),
)


class Model:
    """What a cache should hold. Attributes: `files`, the one used longest ago first; `held`; `pinned`, by turn."""

    def __init__(self) -> None:
        self.files: list[int] = []
        self.held: list[int] = []
        self.pinned: list[int] = []

    def has_come(self, number: int, spare_pinned: bool) -> bool:
        """Whether the file is there after what was done for it."""
        if number in self.files:
            return True
        free = MAX_BYTES - sum(SIZES[other] for other in self.files)
        spared = [] if spare_pinned else [other for other in reversed(self.pinned) if other in self.files]
        for other in [other for other in self.files if other not in self.pinned] + spared:
            if free < SIZES[number] and other not in self.held:
                self.files.remove(other)
                free += SIZES[other]
        if free >= SIZES[number]:
            self.files.append(number)
        return number in self.files

    def used(self, number: int) -> None:
        self.files.remove(number)
        self.files.append(number)


@settings(max_examples=60)
@given(st.lists(acts, max_size=25))
def test_the_least_recently_used_goes_first_and_what_is_held_never(acts):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "TOUCH_SECONDS", -1.0)  # each use is written down
        place, contents = Path(folder), [bytes([number]) * size for number, size in enumerate(SIZES)]
        remotes = []
        for number, content in enumerate(contents):
            (place / f"{number}.tar").write_bytes(content)
            url = (place / f"{number}.tar").as_uri()
            remotes.append(Remote(url, len(content), hashlib.sha256(content).hexdigest()))
        cache, model = Cache(place / "cache", MAX_BYTES, wait_seconds=0), Model()
        pins, held = cache.pins(), list[tuple[int, Held]]()
        for act, what in acts:
            if act == "pin":
                pins.set(remotes[number].key for number in what)
                model.pinned = what
            elif act == "release":
                for number, file in held:
                    if number == what:
                        file.release()
                held = [(number, file) for number, file in held if number != what]
                model.held = [number for number, _ in held]
            elif act == "prefetch":
                come = model.has_come(what, spare_pinned=True)
                assert cache.prefetch(*remotes[what]) == ("here" if come else "full")
            elif model.has_come(what, spare_pinned=False):
                model.used(what)
                model.held.append(what)
                held.append((what, cache.get(*remotes[what])))
            else:
                with pytest.raises(ValueError, match="is too small"):
                    cache.get(*remotes[what])
            files = {path.name[17:]: path for path in cache.folder.glob("*-*.tar")}
            assert sorted(files) == sorted(f"{number}.tar" for number in model.files)
            assert sum(path.stat().st_size for path in files.values()) <= MAX_BYTES
            assert all(file.path.read_bytes() == contents[number] for number, file in held)
        for _, file in held:
            file.release()
        pins.close()
