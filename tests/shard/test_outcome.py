"""The record of a shard: read as it was written, or not at all."""

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.shard.inventory import Inventory
from t2f_dist.shard.ledger import Ledger, fingerprint
from t2f_dist.shard.manifest import Shard
from t2f_dist.shard.outcome import Outcome
from t2f_dist.shard.sources import Refusal

SHARD = Shard(
    name="train-000001.tar",
    num_samples=2,
    bytes=10240,
    sha256="a" * 64,
    index="train-000001.index.npy",
    index_bytes=860,
    index_sha256="b" * 64,
    small="train-000001.small",
    small_bytes=10,
    small_sha256="c" * 64,
)
SIZES = {"train-000001.tar": 10240, "train-000001.index.npy": 860, "train-000001.small": 10}
# A name of a file need not be UTF-8: then Python has lone surrogates in its place.
names = st.text(st.characters(exclude_categories=[])) | st.just("a\udcff.png")


@given(names, names, st.dictionaries(st.text(), st.integers(1)))
def test_a_record_is_read_as_it_was_written(image: str, value: str, counts: dict[str, int]):
    refusals = [
        Refusal("captions", "rejected", "why", image, value, "where"),
        Refusal("images", "unmatched", "x", image),
    ]
    for shard in (SHARD, None):
        outcome = Outcome(shard, refusals, Counter({"images": 2}), Counter(counts))
        assert Outcome.parse(outcome.record("build"), "build") == outcome


def test_a_record_of_another_build_is_none():
    record = Outcome(SHARD).record("build")
    assert Outcome.parse(record, "another") is None


@given(st.binary())
def test_what_is_no_record_is_none(content: bytes):
    assert Outcome.parse(content, "build") is None


def test_a_record_cut_anywhere_is_none():
    record = Outcome(SHARD, [], Counter({"images": 2}), Counter({"face": 3})).record("build")
    assert all(Outcome.parse(record[:end], "build") is None for end in range(len(record)))


def test_a_shard_stands_when_all_its_files_do():
    assert Outcome(SHARD).stands(SIZES | {"other": 1})
    assert Outcome(None).stands({})
    for name in SIZES:
        assert not Outcome(SHARD).stands(SIZES | {name: 1})
        assert not Outcome(SHARD).stands({other: size for other, size in SIZES.items() if other != name})


def test_a_shard_of_another_build_is_made_again(tmp_path: Path):
    ledger = Ledger(str(tmp_path))
    for name, size in SIZES.items():
        (tmp_path / name).write_bytes(bytes(size))
    content: dict[str, str] = {"recipe": "any"}
    build = fingerprint(content)
    ledger.begin(content | {"fingerprint": build}, Inventory({}))
    ledger.record("train-000001", build, Outcome(SHARD))
    assert ledger.done(["train-000001", "train-000002"], build) == {"train-000001"}
    assert ledger.done(["train-000001"], "another") == set()
