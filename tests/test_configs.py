"""Every file in configs/ trains on two ranks, resumes and draws: its own networks, condition and losses, but narrow."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from t2f_dist.config.catalogue import catalogue
from t2f_dist.config.load import read_yaml, resolve
from t2f_dist.config.recipe import ShardRecipe
from t2f_dist.config.schema import Config
from t2f_dist.data.batch import collate_condition
from t2f_dist.data.loader import open_samples
from t2f_dist.models import snapshot
from t2f_dist.portraits.corpus import write_corpus
from t2f_dist.shard.build import build
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.loop import train
from t2f_dist.training.plan import table
from tests.end_to_end.launches import finish, weights
from tests.sentence_model import model_folder

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "configs").glob("*.yaml"))
WIDTH = 16  # channels at most


@pytest.fixture(scope="session")
def large_shards(tmp_path_factory) -> dict[bool, Path]:
    """Portraits of 128 pixels with voices and captions: without and with the captions' embeddings."""
    folder = tmp_path_factory.mktemp("large")
    write_corpus(folder / "corpus", num=48, resolution=128, seed=1, workers=1)
    lines = (folder / "corpus" / "captions.jsonl").read_text().splitlines()
    few = folder / "captions.csv"
    few.write_text("image,caption\n" + "".join(f"{_row(line)}\n" for line in lines))
    made = {}
    for embedded in (False, True):
        made[embedded] = folder / f"shards-{embedded}"
        recipe = ShardRecipe(
            faces=str(folder / "corpus" / "faces"),
            captions=str(few),
            speech=str(folder / "corpus" / "speech.csv"),
            out=str(made[embedded]),
            embed=str(model_folder()) if embedded else None,
            image={"resolution": 128},
            identity="stem",
        )
        build(recipe, workers=1, progress=False)
    return made


def _row(line: str) -> str:
    row = json.loads(line)
    return f'{row["image"]},"{row["captions"][0]}"'


def small(path: Path, shards: Path, run: Path, num_steps: int) -> Config:
    """The file's system with narrow networks: two stages of steps where it grows, at its own resolution where not."""
    mapping = read_yaml(path)
    whole = resolve(Config, mapping, source=path)
    for side in ("generator", "discriminator"):
        section = mapping[side]
        widths = [min(WIDTH, width) for width in section["channels"]]
        section["channels"] = widths[:2] if section["kind"] == "progan" else widths
        if section["kind"] == "msggan":  # as deep as 256 pixels are, a step of it costs seconds
            section["channels"] = widths[-4:]
    batch = 2 * whole.group_size
    resolution = {"progan": 8, "msggan": 32}.get(whole.generator.kind, whole.generator.resolution)
    growing = whole.generator.grows
    first = {"resolution": 4 if growing else resolution, "stable_images": batch, "batch_size": batch}
    second = {
        "resolution": resolution,
        "fade_images": batch if growing else 0,
        "stable_images": (num_steps - 1 - growing) * batch,
        "batch_size": batch,
    }
    mapping |= {
        "run": str(run),
        "stages": [first, second],
        "wandb": {"mode": "disabled"},
        "log": {"every_images": batch, "grid_every_images": 10**6, "grid_rows": 2, "grid_images": 2},
        "snapshot": {"every_images": 10**6},
        "checkpoint": {"every_images": 10**6},
    }
    return resolve(Config, mapping, [f"data.shards={shards}", "data.num_workers=0"], source=path)


def _train(rank: int, world_size: int, *runs: Config) -> None:
    for config in runs:
        assert train(config, Ranks(60))


def _shards(path: Path, large_shards: dict[bool, Path]) -> Path:
    caption = resolve(Config, read_yaml(path)).condition.caption
    return large_shards[caption is not None and caption.kind == "stored"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_trains_on_two_ranks_resumes_and_draws(pair, large_shards, tmp_path, path):
    shards = _shards(path, large_shards)
    begun, whole = (small(path, shards, tmp_path / "run", steps) for steps in (3, 4))
    pair.run(_train, begun, whole)
    straight = small(path, shards, tmp_path / "straight", 4)
    pair.run(_train, straight)
    resumed, uninterrupted = weights(tmp_path / "run"), weights(tmp_path / "straight")
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)
    drawn = snapshot.load(tmp_path / "run")
    samples = open_samples(whole)
    conditions = [example.condition for example in samples.examples(2)] if whole.condition.modalities else [{}, {}]
    samples.close()
    images = drawn.draw(collate_condition(conditions), [0, 1])
    assert images.shape == (2, 3, whole.stages[-1].resolution, whole.stages[-1].resolution)
    assert not torch.equal(images[0], images[1]), "another condition and other noise, and the same face"
    shutil.rmtree(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_trains_by_a_launch_of_its_own(large_shards, tmp_path, path):
    config = small(path, _shards(path, large_shards), tmp_path / "run", 4)
    assert finish(config) == 0, (tmp_path / "run.log").read_text()
    assert snapshot.load(tmp_path / "run").images_seen == config.total_images


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_can_be_planned_for_one_rank_and_two(path):
    config = resolve(Config, read_yaml(path), source=path)
    for world_size in (1, 2):
        assert "images" in table(config, world_size)


def test_the_table_names_every_file_and_the_catalogue_describes_it():
    readme = (ROOT / "configs" / "README.md").read_text()
    entries = catalogue(ROOT / "configs")
    assert [entry.path for entry in entries] == FILES
    for entry in entries:
        assert f"[{entry.path.name}]({entry.path.name})" in readme, f"{entry.path.name} is not in configs/README.md"
        assert entry.title.endswith("."), entry
        assert len(entry.title) > 20
    unfilled = [word for word in re.findall(r"\| ([A-Z]{2,}) \|", readme) if word not in ("KL", "ADA")]
    assert not unfilled, f"cells of the table that nobody filled: {unfilled}"
