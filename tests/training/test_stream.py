"""Whole runs on tars that nobody has indexed, of one rank and of two."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from t2f_dist.data.stream import NOTE
from t2f_dist.shard.manifest import Manifest
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.loop import train
from t2f_dist.training.plan import describe
from t2f_dist.training.run import status
from tests.end_to_end.launches import weights
from tests.ranks import Pair
from tests.training.small import config


@pytest.fixture(scope="module")
def tars(portrait_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars of unequal lengths, without manifest or index, and their words: the first alone has a third of all."""
    folder = tmp_path_factory.mktemp("tars")
    for number, shard in enumerate(Manifest.load(portrait_shards).shards("train")):
        content = (portrait_shards / shard.name).read_bytes()
        (folder / f"{number:05d}.tar").write_bytes(content)
        if number == 2:
            break
    shutil.copy(portrait_shards / "vocabulary.json", folder)
    small = Manifest.load(portrait_shards).shards("test")[0]
    shutil.copy(portrait_shards / small.name, folder / "00003.tar")
    return folder


def settings(kind: str, tars: Path, run: Path, *overrides: str):
    place = Path(f"{tars}/{{00000..00003}}.tar")
    return config(kind, place, run, f"data.vocabulary={tars}/vocabulary.json", *overrides)


def test_a_run_trains_to_its_end_and_again_gives_the_same(tars: Path, tmp_path: Path):
    for run in ("one", "two"):
        assert train(settings("both", tars, tmp_path / run), Ranks(60))
        assert status.read(tmp_path / run)["outcome"] == "finished"
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    lines = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["images"] == 128 and not any("reals/held_out" in line for line in lines)
    assert len(list((tmp_path / "one" / "grids").iterdir())) == 2


def test_a_run_that_goes_on_says_that_its_order_is_another(tars: Path, tmp_path: Path, capsys):
    assert train(settings("house", tars, tmp_path), Ranks(60))
    assert NOTE not in capsys.readouterr().out
    longer = settings("house", tars, tmp_path, "stages.1.stable_images=96", "data.buffer_samples=10")
    assert train(longer, Ranks(60))
    assert capsys.readouterr().out.count(NOTE) == 1
    fewer = Path(f"{tars}/{{00000..00001}}.tar")
    other = config("house", fewer, tmp_path, f"data.vocabulary={tars}/vocabulary.json", "stages.1.stable_images=200")
    with pytest.raises(ValueError, match="was trained on other shards"):
        train(other, Ranks(60))


def _run(rank: int, world_size: int, tars: Path, run: Path) -> bool:
    return train(settings("house", tars, run), Ranks(30))


def test_two_ranks_with_unequal_tars_reach_the_end(pair: Pair, tars: Path, tmp_path: Path):
    assert pair.run(_run, tars, tmp_path / "run") == [True, True]
    assert status.read(tmp_path / "run")["outcome"] == "finished"
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())


def test_the_plan_knows_the_words(tars: Path, tmp_path: Path):
    words = len(json.loads((tars / "vocabulary.json").read_text())["words"]) + 2
    assert f"encoders counted for {words:,} words" in describe(settings("house", tars, tmp_path), 2)


def test_too_much_damage_ends_the_run_and_says_what_looks_at_it(tars: Path, tmp_path: Path):
    for path in tars.glob("*.tar"):
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content.replace(b"\xff\xd8\xff\xe0", b"?" * 4, 5))  # of JPEGs
    place = f"data.shards={tmp_path}/{{00000..00003}}.tar"
    with pytest.raises(ValueError, match=r"damaged and replaced.*look at all of them with `t2f-dist index .*`"):
        train(settings("house", tars, tmp_path / "run", place), Ranks(60))
