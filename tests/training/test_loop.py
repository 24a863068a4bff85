"""Whole runs of one rank, in this process."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from t2f_dist.shard import format as shard_format
from t2f_dist.shard import levels
from t2f_dist.shard.manifest import Manifest
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.loop import train
from t2f_dist.training.run import status
from tests.end_to_end.launches import weights
from tests.training.small import config


def _damage(shards: Path, share: int) -> None:
    """Flip a byte in the pictures of 4 and of 8 pixels of every `share`-th training sample."""
    manifest = Manifest.load(shards)
    for shard in manifest.shards("train"):
        index = shard_format.open_index(shards / shard.index, shard)
        content = bytearray((shards / shard.small).read_bytes())
        for record in index[::share]:
            for end in (levels.ENDS[4], levels.ENDS[8]):
                content[int(record["lod_offset"]) + end - 1] ^= 1
        (shards / shard.small).write_bytes(content)


def test_a_run_leaves_what_it_says(portrait_shards, tmp_path):
    settings = config("house", portrait_shards, tmp_path / "run")
    assert train(settings, Ranks(60))
    run = tmp_path / "run"
    assert status.read(run)["outcome"] == "finished"
    assert [json.loads(line)["images"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        40,
        80,
        120,
        128,
    ]
    for folder, names in (
        ("grids", ["images-000000000080.png", "images-000000000128.png"]),
        ("snapshots", ["images-000000000064.safetensors", "images-000000000128.safetensors"]),
        ("checkpoints", ["images-000000000120", "images-000000000128"]),
    ):
        assert sorted(path.name for path in (run / folder).glob("images-*")) == names


def test_a_finished_run_ends_at_once_and_may_be_prolonged(portrait_shards, tmp_path, capsys):
    settings = config("house", portrait_shards, tmp_path / "run")
    train(settings, Ranks(60))
    assert train(settings, Ranks(60))
    assert "already finished: 128 images" in capsys.readouterr().out
    longer = ("stages.1.stable_images=96",)
    assert train(config("house", portrait_shards, tmp_path / "run", *longer), Ranks(60))
    assert train(config("house", portrait_shards, tmp_path / "whole", *longer), Ranks(60))
    prolonged, whole = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(prolonged[name], whole[name]) for name in whole)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_few_damaged_samples_are_replaced_and_many_end_the_run(portrait_shards, tmp_path, num_workers):
    shards = tmp_path / "shards"
    shutil.copytree(portrait_shards, shards)
    _damage(shards, share=50)
    few = config("house", shards, tmp_path / "few", f"data.num_workers={num_workers}")
    assert train(few, Ranks(60))
    recorded = (tmp_path / "few" / "damaged-0.jsonl").read_text().splitlines()
    last = json.loads((tmp_path / "few" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["speed/num_damaged"] == len(recorded) > 0
    _damage(shards, share=2)
    many = config("house", shards, tmp_path / "many", f"data.num_workers={num_workers}")
    with pytest.raises(
        ValueError, match=r"samples read were damaged and replaced, more than data\.max_damaged_fraction"
    ):
        train(many, Ranks(60))
    assert status.read(tmp_path / "many")["outcome"] == "failed"
    assert "t2f-dist verify" in status.read(tmp_path / "many")["reason"]


def test_weights_that_are_no_numbers_end_the_run_and_are_not_kept(portrait_shards, tmp_path):
    settings = config("house", portrait_shards, tmp_path / "run", "optimizer.generator.learning_rate=1e300")
    with pytest.raises(ValueError, match=r"with lower learning rates"):
        train(settings, Ranks(60))
    assert not list((tmp_path / "run").glob("checkpoints/images-*"))
    assert status.read(tmp_path / "run")["outcome"] == "failed"


def test_another_configuration_does_not_go_on_from_a_run(portrait_shards, tmp_path):
    train(config("house", portrait_shards, tmp_path / "run"), Ranks(60))
    other = config(
        "house",
        portrait_shards,
        tmp_path / "run",
        "loss.penalties=[{kind: r1, weight: 3, every_images: 16}]",
        "stages.1.stable_images=96",
    )
    with pytest.raises(ValueError, match=r"another configuration: loss\.penalties\.0\.weight was 0\.5, now 3\.0\."):
        train(other, Ranks(60))
    found = status.read(tmp_path / "run")
    assert found["outcome"] == "finished", "a mistaken command does not undo a finished run"
    assert found["reason"] == "all images shown"
    assert "was trained with another configuration" in found["refused"]
