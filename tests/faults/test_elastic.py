"""A run that began on two ranks goes on with one or with four: the same batches, schedule and weights, at its speed."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from t2f_dist.config.schema import Config
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.growth import Growth
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.loop import train
from tests.end_to_end.launches import finish, log_of, metrics_of, repeated_images, status_of, weights
from tests.faults.record import record
from tests.ranks import Pair
from tests.training.small import config as small

# 6 + 12 + 6 steps of 16 images, in float64: 96 stable, from 96 to 288 a block fades in, stable. Four ranks of 4 images.
LENGTH = ("stages.0.stable_images=96", "stages.1.fade_images=192", "stages.1.stable_images=96")
SAVED = ("checkpoint.every_images=48", "checkpoint.keep=100")
MIDDLE = 144  # in the fade
CLOSE = 1e-9  # relative to a tensor's largest element; sums in float64 are added up in another order


def _settings(shards: Path, run: Path, recipe: str = "house") -> Config:
    return small(recipe, shards, run, *LENGTH, *SAVED, batch_size=16)


def _assert_same_run(config: Config, whole: Config) -> None:
    """The same end but for rounding, and the same lines of metrics at the same images."""
    ours, theirs = weights(config.run), weights(whole.run)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if not tensor.is_floating_point():  # whose a vector of the queue is, and whether there is one
            assert torch.equal(ours[name], tensor), name
            continue
        scale = max(1e-3, float(tensor.abs().max()))
        assert float((ours[name] - tensor).abs().max()) <= CLOSE * scale, name
    lines, wanted = metrics_of(config), metrics_of(whole)
    assert [line["images"] for line in lines] == [line["images"] for line in wanted]
    for line, other in zip(lines, wanted, strict=True):
        schedule = [key for key in other if key.startswith("schedule/")]
        assert len(schedule) == 4
        assert [line[key] for key in schedule] == [other[key] for key in schedule]


def _train(rank: int, world_size: int, run: str, content: str) -> bool:
    return train(Config.model_validate_json(content), Ranks(60))


def _on_two(pair: Pair, config: Config) -> None:
    assert pair.run(_train, config.run, config.model_dump_json(), timeout=180) == [True, True]


def _cut_off(whole: Config, run: Path, images: int) -> Config:
    """A run as it would be had it been killed just after its checkpoint at so many images."""
    config = whole.model_copy(update={"run": str(run)})
    shutil.copytree(
        Path(whole.run) / "checkpoints" / f"images-{images:012d}", run / "checkpoints" / f"images-{images:012d}"
    )
    shutil.copy(Path(whole.run) / "metrics.jsonl", run)
    return config


@pytest.fixture
def on_two(pair: Pair, portrait_shards: Path, tmp_path: Path) -> Config:
    """A finished run of two ranks, with its checkpoints."""
    config = _settings(portrait_shards, tmp_path / "whole")
    _on_two(pair, config)
    return config


def test_one_rank_goes_on_where_two_were(on_two: Config, tmp_path: Path):
    config = _cut_off(on_two, tmp_path / "run", MIDDLE)
    assert train(config, Ranks(60))
    _assert_same_run(config, on_two)
    record("2 ranks go on as 1", "equal but for rounding", 0)


@pytest.mark.slow
def test_four_ranks_go_on_where_two_were(on_two: Config, tmp_path: Path):
    config = _cut_off(on_two, tmp_path / "run", MIDDLE)
    assert finish(config, 4, timeout=400) == 0, log_of(config)
    _assert_same_run(config, on_two)
    record("2 ranks go on as 4", "equal but for rounding", 0)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["house", "both", "t2f"])
def test_two_then_four_then_one_then_two_by_kills(pair: Pair, portrait_shards: Path, tmp_path: Path, recipe: str):
    whole = _settings(portrait_shards, tmp_path / "whole", recipe)
    _on_two(pair, whole)
    config = whole.model_copy(update={"run": str(tmp_path / "run")})
    for number, (ranks, images) in enumerate([(2, 80), (4, 176), (1, 272)]):
        fault: dict[str, Any] = {"kind": "kill", "rank": ranks - 1, "at": "t2f_dist.training.side:Side.step"}
        fault |= {"images": images, "marker": str(tmp_path / f"fault{number}")}
        assert finish(config, ranks, fault=fault, timeout=400) != 0
        assert (tmp_path / f"fault{number}-{ranks - 1}").exists(), log_of(config)
    assert finish(config, 2, timeout=400, module="tests.faults.injected") == 0, log_of(config)
    assert status_of(config)["outcome"] == "finished"
    _assert_same_run(config, whole)
    record("SIGKILL, 2, 4, 1, 2 ranks in turn", "equal but for rounding", repeated_images(config))


def _stream(config: Config, world_size: int, start: int) -> list[list[Any]]:
    """What is shown at each step: position, sample, mismatched sample, pixels and noise of each image, in order."""
    steps = list(Growth(config.stages).steps(start))
    samples = open_samples(config)
    shares = [list(batches(samples, steps, rank, world_size, 0)) for rank in range(world_size)]
    samples.close()

    def of(parts: Sequence[Any]) -> list[Any]:
        names = ("positions", "places", "mismatched_places", "images", "z", "noise", "mixing")
        return [torch.cat([getattr(part, name) for part in parts]).tolist() for name in names]

    return [of(parts) for parts in zip(*shares, strict=True)]


def test_the_stream_from_any_image_is_the_same_for_any_number_of_ranks(portrait_shards: Path, tmp_path: Path):
    config = _settings(portrait_shards, tmp_path / "run")
    whole = _stream(config, 2, 0)
    for world_size in (1, 4):
        assert json.dumps(_stream(config, world_size, MIDDLE)) == json.dumps(whole[MIDDLE // 16 :])
