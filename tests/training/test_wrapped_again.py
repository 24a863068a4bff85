"""More than two ranks, which go on from the middle of a phase: sums are rounded by their place in an exchange."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ranks import Pair
from tests.training.short_run import trained
from tests.training.small import config

RANKS = 4
BATCH, MIDDLE, END = 16, 112, 128  # both in the last phase


def _trained(rank: int, world_size: int, shards: str, middle: int | None) -> dict[str, Tensor]:
    """Two phases; from `middle` on with new wrappers, as after a start from a checkpoint."""
    settings = config("house", Path(shards), Path(shards), batch_size=BATCH)
    gan = trained(settings, None, 0, middle, rank, world_size) if middle else None
    gan = trained(settings, gan, middle or 0, END, rank, world_size)
    return {name: tensor.clone() for name, tensor in (gan.weights() | gan.moments()).items()}


@pytest.fixture(scope="module")
def four():
    ranks = Pair(RANKS)
    yield ranks
    ranks.close()


@pytest.mark.xdist_group("ranks")
def test_four_ranks_that_are_wrapped_again_go_on_to_the_same_bits(four: Pair, portrait_shards: Path):
    straight = four.run(_trained, str(portrait_shards), None)
    again = four.run(_trained, str(portrait_shards), MIDDLE)
    for rank in range(RANKS):
        assert [name for name, value in straight[0].items() if not torch.equal(value, again[rank][name])] == []
