"""What runs with a fault in them are compared with: the same run in quiet."""

from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from t2f_dist.config.schema import Config
from t2f_dist.training.launch.ranks import Agreement, Ranks
from t2f_dist.training.loop import train
from tests.end_to_end.launches import finish, log_of, status_of
from tests.faults.injected import Place
from tests.ranks import Pair
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
# 6 + 6 + 4 steps, for the fast tests, which spend their time on the start of a launch.
LITTLE = ("train.precision=bf16", "train.channels_last=true", "snapshot.every_images=1000")
IN_LITTLE = 64  # images: in the fade


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


@pytest.fixture(scope="session")
def trained_on(pair: Pair) -> Callable[[Config], None]:
    """Train a run to its end on two ranks that are there already: seconds less than a launch, and the same bits."""

    def on(settings: Config) -> None:
        assert pair.run(_train, settings) == [True, True], log_of(settings)

    return on


def _train(rank: int, world_size: int, settings: Config) -> bool:
    """What a launch does, with its files beside the run: RUN.log, and RUN.trace for `steps_of`."""
    stop = Agreement.stop
    run = Path(settings.run)
    with open(run.with_suffix(".log"), "a") as log, redirect_stdout(log), redirect_stderr(log):
        Place(rank, str(run.with_suffix(".trace")))
        try:
            return train(settings, Ranks(60))
        finally:
            Agreement.stop = stop


@pytest.fixture(scope="session")
def little_quiet(
    portrait_shards: Path, trained_on: Callable[[Config], None], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    settings = config("house", portrait_shards, tmp_path_factory.mktemp("little") / "run", *LITTLE)
    trained_on(settings)
    return settings


@pytest.fixture
def little(little_quiet: Config, tmp_path: Path) -> tuple[Config, Config]:
    """A run of 16 steps without loader processes, and the same one, finished in quiet."""
    return little_quiet.model_copy(update={"run": str(tmp_path / "run")}), little_quiet
