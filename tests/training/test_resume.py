"""What differs from the run that a folder holds, in words."""

from typing import Any

import pytest
import torch

from t2f_dist.config.schema import Config
from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.checkpoints.archive import Archive
from t2f_dist.training.checkpoints.resume import differences, resume
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.loop import train
from t2f_dist.training.run import status
from t2f_dist.training.run.failure import worth_a_retry
from tests.training.short_run import unequal, untrained, write_checkpoint
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
    write_checkpoint(tmp_path / "checkpoints", untrained(settings()), state, keep=2)
    assert again("data.cache_dir=/elsewhere", "data.cache_bytes=123") == 24
    with pytest.raises(ValueError, match=r"another configuration: data\.lanes was 1, now 2\. Give the former"):
        again("data.lanes=2")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generator.z_size=7", r"generator\.z_size was 6, now 7"),
        ("generator.channels=[12,4]", r"generator\.channels\.1 was 8, now 4"),
        ("train.precision=fp32", r"train\.precision was fp64, now fp32"),
        ("train.precision=fp16", r"train\.precision was fp64, now fp16"),
    ],
)
def test_a_key_that_changes_shapes_or_the_scaler_is_named_and_nothing_is_filled(
    portrait_shards, tmp_path, override: str, said: str
):
    before = config("house", portrait_shards, tmp_path)
    write_checkpoint(tmp_path / "checkpoints", untrained(before), checkpoint.State(24, "abc", dumped(before)), keep=2)
    now = config("house", portrait_shards, tmp_path, override)
    if now.train.precision == "fp16":  # which no network on a CPU is made with: its scaler alone
        gan = untrained(before)
        for side in (gan.generator_side, gan.discriminator_side):
            side.scaler = torch.amp.GradScaler("cpu", enabled=True)
    else:
        gan = untrained(now)
    weights = {name: tensor.clone() for name, tensor in gan.weights().items()}
    with pytest.raises(ValueError, match=rf"was trained with another configuration: {said}"):
        resume(Archive.of(now), gan, now, "abc", Ranks(60))
    assert unequal(gan.weights(), weights) == []


def dumped(settings: Config) -> dict[str, Any]:
    return settings.model_dump(mode="json")


def test_a_run_whose_checkpoints_are_not_there_does_not_begin_again(portrait_shards, tmp_path):
    """Until they are; and one that had saved none begins."""
    settings = config("house", portrait_shards, tmp_path / "run")
    gan, ranks = untrained(settings), Ranks(60)
    archive = Archive.of(settings)
    (tmp_path / "run").mkdir()
    assert resume(archive, gan, settings, "abc", ranks) == 0
    copy = checkpoint.Copy()
    copy.take(gan, checkpoint.State(24, "abc", dumped(settings)))
    archive.write(24, copy.files, copy.body, pytest.fail)
    assert resume(archive, gan, settings, "abc", ranks) == 24
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.rename(tmp_path / "away")
    said = rf"{settings.run} had saved 24 images in {checkpoints}, and {checkpoints} holds no checkpoint: mount it, "
    with pytest.raises(ValueError, match=said + r"name it with checkpoint\.folder, or name another folder with --run"):
        resume(archive, gan, settings, "abc", ranks)
    elsewhere = config("house", portrait_shards, tmp_path / "run", f"checkpoint.folder={tmp_path / 'typo'}")
    with pytest.raises(ValueError, match=f"in {checkpoints}, and {tmp_path / 'typo'} holds no checkpoint"):
        resume(Archive.of(elsewhere), gan, elsewhere, "abc", ranks)
    moved = config("house", portrait_shards, tmp_path / "run", f"checkpoint.folder={tmp_path / 'away'}")
    assert resume(Archive.of(moved), gan, moved, "abc", ranks) == 24


@pytest.mark.parametrize("outcome", ["finished", "killed"])
def test_a_run_without_its_checkpoints_keeps_its_log(portrait_shards, tmp_path, outcome: str):
    settings = config("house", portrait_shards, tmp_path / "run")
    assert train(settings, Ranks(60))
    run = tmp_path / "run"
    (run / "checkpoints").rename(tmp_path / "away")
    if outcome == "killed":
        status.write(run, "running", "training")
    metrics = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="had saved 128 images"):
        train(settings, Ranks(60))
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_a_checkpoint_that_only_this_rank_reads_wrong_is_worth_another_try(portrait_shards, tmp_path, monkeypatch):
    """The main rank has named it as whole; here it is damaged."""
    settings = config("house", portrait_shards, tmp_path)
    path = write_checkpoint(
        tmp_path / "checkpoints", untrained(settings), checkpoint.State(24, "abc", dumped(settings))
    )
    ranks = Ranks(60)
    monkeypatch.setattr(ranks, "rank", 1)
    told = iter([24, 1, -1])
    monkeypatch.setattr(ranks, "broadcast", lambda _: next(told))
    (path / "networks.safetensors").write_bytes(b"other")
    with pytest.raises(OSError, match="is damaged as rank 1 on .* reads it, and not as rank 0 does") as caught:
        resume(Archive.of(settings), untrained(settings), settings, "abc", ranks)
    assert worth_a_retry(caught.value)
