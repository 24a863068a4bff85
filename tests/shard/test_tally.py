"""Words of many tars: exact counts, whatever the order, in a bounded memory."""

import random
import weakref
from collections import Counter
from pathlib import Path

import pytest

from t2f_dist.shard import index as shard_index
from t2f_dist.shard import tally
from t2f_dist.shard.foreign import ForeignTar, Record
from t2f_dist.shard.tally import Tally
from t2f_dist.text.vocabulary import Vocabulary
from tests.shard.img2dataset import corpus
from tests.shard.test_index import indexed

LARGE = 1 << 30  # bytes


def drawn(num: int) -> list[Counter[str]]:
    generator = random.Random(0)
    return [Counter(f"wört{int(generator.paretovariate(0.3)) % 5000}" for _ in range(300)) for _ in range(num)]


def counted(folder: Path, parts: list[Counter[str]], num: int, num_bytes: int = LARGE, min_count: int = 1):
    with Tally(folder) as found:
        for part in parts:
            found.add(part)
        return list(found.most_common(num, num_bytes, min_count).items())


@pytest.mark.parametrize("held", [10**6, 1000, 50, 0])
def test_counts_are_exact_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int):
    monkeypatch.setattr(tally, "HELD_MAX", held)
    parts = drawn(40)
    whole = Counter(word for part in parts for word in part.elements())
    expected = sorted(whole.items(), key=lambda pair: (-pair[1], pair[0]))
    assert len(expected) > 1500
    for num in (len(expected) + 1, 100, 7, 1):
        assert counted(tmp_path, parts, num) == counted(tmp_path, parts[::-1], num) == expected[:num]
    assert counted(tmp_path, parts, 10**6, min_count=3) == [pair for pair in expected if pair[1] >= 3]
    few = counted(tmp_path, parts, 10**6, num_bytes=300)
    assert 20 < len(few) < 40 and few == expected[: len(few)]
    assert len("".join(f'"{word}",\n' for word, _ in expected[: len(few) + 1]).encode()) > 300
    assert list(tmp_path.iterdir()) == []


def test_what_is_held_goes_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tally, "HELD_MAX", 100)
    with Tally(tmp_path) as found:
        for number in range(50):
            found.add(Counter(str(word) for word in range(30 * number, 30 * number + 30)))
            assert len(found._held) <= 100
        assert len(found.most_common(10**6, LARGE)) == 1500


def test_nothing_counted(tmp_path: Path):
    assert counted(tmp_path, [], 10) == counted(tmp_path, [Counter()], 10) == []


def test_records_of_tars_are_held_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given: list[weakref.ref[Record]] = []
    most = 0
    read = ForeignTar.record

    def record(*arguments) -> Record | None:
        nonlocal most
        found = read(*arguments)
        if found is not None:
            given.append(weakref.ref(found))
            most = max(most, sum(each() is not None for each in given))
        return found

    monkeypatch.setattr(ForeignTar, "record", record)
    indexed(corpus(tmp_path / "cc3m", num_tars=6, each=3), tmp_path / "out")
    assert len(given) == 6 and most <= 2


def test_a_vocabulary_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The rarest words are dropped, whatever the order of the tars and however many work."""
    root = corpus(tmp_path / "cc3m")
    split = {"validation": 0, "test": 0}
    whole = indexed(root, tmp_path / "whole", split=split).manifest
    words = Vocabulary.from_json(whole.read_vocabulary(tmp_path / "whole")).words
    assert len(words) == 38
    monkeypatch.setattr(shard_index, "WORDS_MAX", 5)
    for name, places in (("one", sorted(root.glob("*.tar"))), ("other", sorted(root.glob("*.tar"))[::-1])):
        found = indexed([str(place) for place in places], tmp_path / name, split=split).manifest
        assert Vocabulary.from_json(found.read_vocabulary(tmp_path / name)).words == words[:5]
    with pytest.raises(ValueError, match="1000000"):
        indexed(root, tmp_path / "more", text={"max_words": 1_000_001})
