"""What differs from the run that a folder holds, in words."""

from typing import Any

import pytest

from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.resume import differences, resume
from t2f_dist.training.launch.ranks import Ranks
from tests.training.short_run import untrained
from tests.training.small import config

STAGE = {"resolution": 4, "fade_images": 0, "stable_images": 480, "batch_size": 8}


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"seed": 0}, {"seed": 0}, []),
        ({"a": {"b": None}, "c": True}, {"a": {"b": 1.5}, "c": 2}, ["a.b was null, now 1.5", "c was true, now 2"]),
        (
            {"stages": [STAGE, STAGE]},
            {"stages": [STAGE | {"stable_images": 1000}, STAGE, STAGE]},
            ["stages.0.stable_images was 480, now 1000", "stages has 3 entries, was 2"],
        ),
        ({"stages": [STAGE, STAGE]}, {"stages": [STAGE]}, ["stages has 1 entry, was 2"]),
        (
            {"loss": {"penalties": []}},
            {"loss": {"penalties": [{"kind": "r1", "weight": 3.0}]}},
            ["loss.penalties has 1 entry, was 0"],
        ),
        (
            {"speech": None, "text": {"kind": "lstm", "size": 4}},
            {"speech": {"kind": "log_mel", "size": 4}, "text": {"kind": "stored", "depth": 3}},
            ["speech was null, now {kind: log_mel, ...}", "text.kind was lstm, now stored"],
        ),
        ({"name": "", "size": [1, 2]}, {"name": "a b", "size": 0}, ['name was "", now a b', "size was [1, 2], now 0"]),
    ],
)  # fmt: skip
def test_each_value_that_differs_is_named_by_its_key(before: Any, now: Any, said: list[str]):
    assert differences(before, now) == said


def test_a_run_goes_on_with_another_cache_and_not_with_other_lanes(portrait_shards, tmp_path):
    def settings(*overrides: str):
        return config("house", portrait_shards, tmp_path, *overrides)

    def again(*overrides: str) -> int:
        now = settings(*overrides)
        return resume(Archive.of(now), untrained(now), now, "abc", Ranks(60))

    state = checkpoint.State(24, "abc", settings("data.cache_dir=/fast").model_dump(mode="json"))
    checkpoint.save(tmp_path / "checkpoints", untrained(settings()), state, keep=2)
    assert again("data.cache_dir=/elsewhere", "data.cache_bytes=123") == 24
    with pytest.raises(ValueError, match=r"another configuration: data\.lanes was 1, now 2\. Give the former"):
        again("data.lanes=2")
