"""What every test may rely on: one thread, no network, nothing of the user's own settings, and a pair of ranks."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import s3
from tests.ranks import Pair

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two workers share the cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
# A launch seen by a test must not inherit what the shell of the person who runs it was launched with.
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)

# The same examples in every run, and no deadline: a busy machine is not a failure.
settings.register_profile("house", deadline=None, derandomize=True, database=None)
settings.load_profile("house")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "pair" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ranks"))  # one worker, so one pair of ranks
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU here"))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two gloo ranks for many tests: `pair.run(function, *args)`, see tests/ranks.py."""
    ranks = Pair()
    yield ranks
    ranks.close()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real corpora that T2F_REAL_DATA names; the test is skipped where it is not set."""
    folder = os.environ.get("T2F_REAL_DATA")
    if not folder:
        pytest.skip("T2F_REAL_DATA is not set: no real corpus here")
    return Path(folder)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """A real S3 server on the loopback, for all tests of a process."""
    with s3.rclone(tmp_path_factory.mktemp("s3") / "buckets") as server:
        yield server


@pytest.fixture
def bucket(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket, with the environment set so that this process and its children reach it."""
    s3_server.into(monkeypatch)
    return s3_server.make(f"bucket-{secrets.token_hex(4)}")


@pytest.fixture(scope="session")
def portrait_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 120 drawn portraits of 32 pixels, 20 a shard, with captions and voices."""
    from t2f_dist.config.recipe import ShardRecipe
    from t2f_dist.portraits.corpus import write_corpus
    from t2f_dist.shard.build import build

    folder = tmp_path_factory.mktemp("portraits")
    write_corpus(folder / "corpus", num=120, resolution=32, seed=0, workers=1)
    recipe = ShardRecipe(
        faces=str(folder / "corpus" / "faces"),
        captions=str(folder / "corpus" / "captions.jsonl"),
        speech=str(folder / "corpus" / "speech.csv"),
        out=str(folder / "shards"),
        image={"resolution": 32},
        samples_per_shard=20,
    )
    build(recipe, workers=1, progress=False)
    return folder / "shards"
