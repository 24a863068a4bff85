"""What runs with a fault in them are compared with: the same run in quiet."""

from collections.abc import Callable
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from tests.end_to_end.launches import finish, log_of, status_of
from tests.training.small import config

# 25 + 50 + 25 steps of 8 images: stable, from 200 to 600 a block fades in, stable.
SHORT = (
    "train.precision=bf16",
    "train.channels_last=true",
    "stages.0.stable_images=200",
    "stages.1.fade_images=400",
    "stages.1.stable_images=200",
    "checkpoint.every_images=64",
    "data.num_workers=1",
)
MID_FADE = 416


@pytest.fixture(scope="session")
def quiet(portrait_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Config]:
    """A finished run of a recipe of tests.training.small that nothing disturbed; each is trained once."""
    finished: dict[str, Config] = {}

    def of(recipe: str) -> Config:
        if recipe not in finished:
            settings = config(recipe, portrait_shards, tmp_path_factory.mktemp("quiet") / "run", *SHORT)
            assert finish(settings) == 0, log_of(settings)
            assert status_of(settings)["outcome"] == "finished"
            finished[recipe] = settings
        return finished[recipe]

    return of


@pytest.fixture
def anew(quiet: Callable[[str], Config], tmp_path: Path) -> Callable[[str], tuple[Config, Config]]:
    """The same run again in another folder, and the quiet one."""

    def of(recipe: str) -> tuple[Config, Config]:
        return quiet(recipe).model_copy(update={"run": str(tmp_path / "run")}), quiet(recipe)

    return of
