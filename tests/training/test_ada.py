"""How often images are augmented, as a function of the signs of the scores of reals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.config.loss import Ada
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.ada import AdaptiveProbability
from t2f_dist.training.checkpoints import checkpoint
from t2f_dist.training.growth import Growth
from t2f_dist.training.step import train_step
from tests.ranks import Pair
from tests.training.short_run import read_checkpoint, trained, untrained, write_checkpoint
from tests.training.small import config


def signs(mean: float, batch_size: int) -> torch.Tensor:
    return torch.tensor(mean * batch_size, dtype=torch.float64)


def after(section: Ada, mean: float, sizes: list[int]) -> float:
    """The probability after batches of these sizes, whose signs have this mean."""
    ada, seen = AdaptiveProbability(section), 0
    for size in sizes:
        ada.see(signs(mean, size), size, seen)
        seen += size
    return float(ada.probability)


@given(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(1, 8), st.sampled_from([1.0, -1.0]))
def test_it_moves_by_the_share_of_images_whatever_the_batch_size(batch_size: int, times: int, mean: float):
    section = Ada(initial_probability=0.5, every_images=32, images_to_one=1000, max_probability=1.0)
    found = after(section, mean, [batch_size] * (32 * times // batch_size))
    assert found == pytest.approx(0.5 + mean * 32 * times / 1000, abs=1e-12)


def test_between_two_adjustments_it_stays_and_an_uneven_batch_is_counted_whole():
    section = Ada(initial_probability=0.5, every_images=32, images_to_one=1000)
    assert after(section, 1.0, [24]) == 0.5
    assert after(section, 1.0, [24, 24]) == 0.5 + 48 / 1000
    assert after(section, 1.0, [24, 24, 8]) == 0.5 + 48 / 1000


@pytest.mark.parametrize(("mean", "up"), [(1.0, True), (0.61, True), (0.59, False), (0.0, False), (-1.0, False)])
def test_it_moves_up_above_the_target_and_down_below(mean: float, up: bool):
    section = Ada(initial_probability=0.5, every_images=8, images_to_one=1000, target=0.6)
    assert after(section, mean, [8]) == pytest.approx(0.508 if up else 0.492, abs=1e-12)


def test_what_was_seen_before_an_adjustment_has_no_part_in_the_next():
    ada = AdaptiveProbability(Ada(initial_probability=0.5, every_images=8, images_to_one=1000, target=0.0))
    for seen, mean in enumerate([1.0, -0.25]):
        ada.see(signs(mean, 8), 8, 8 * seen)
    assert float(ada.probability) == 0.5


def test_it_ends_at_its_bounds():
    section = Ada(every_images=8, images_to_one=64, max_probability=0.85, initial_probability=0.3)
    assert after(section, 1.0, [8] * 100) == 0.85
    assert after(section, -1.0, [8] * 100) == 0.0
    assert after(section, 1.0, [8] * 8) <= 0.85


def _probabilities(rank: int, world_size: int, shards) -> list[bytes]:
    """After each step of 16 images: the probability, and what is gathered for the next, bit by bit."""
    sixteen = [f"stages.{stage}.batch_size=16" for stage in range(2)]
    settings = config("both", shards, shards, *sixteen, "augment.every_images=32", "augment.target=0.0")
    gan, growth = untrained(settings, world_size), Growth(settings.stages)
    samples = open_samples(settings)
    found = []
    for batch, (seen, size, _) in zip(
        batches(samples, growth.steps(0), rank, world_size, 0), growth.steps(0), strict=True
    ):
        train_step(gan, batch, growth.at(seen), seen, 1)
        gan.update_ema(seen, size)
        assert gan.ada is not None
        found.append(b"".join(tensor.numpy().tobytes() for tensor in gan.ada.state_dict().values()))
    gan.release()
    samples.close()
    return found


def test_two_ranks_come_to_the_bits_of_one(pair: Pair, portrait_shards):
    alone = _probabilities(0, 1, portrait_shards)
    assert pair.run(_probabilities, portrait_shards) == [alone, alone]
    assert len({state[:8] for state in alone}) > 2, "it moved"


def test_a_checkpoint_within_an_interval_goes_on_alike(portrait_shards, tmp_path):
    settings = config("both", portrait_shards, tmp_path, "augment.every_images=40")
    gan = trained(settings, stop=24)
    assert gan.ada is not None and int(gan.ada.num_signs) == 24
    path = write_checkpoint(tmp_path / "checkpoints", gan, checkpoint.State(24, "abc", {}), keep=2)
    again = untrained(settings)
    assert again.ada is not None and int(again.ada.num_signs) == 0
    read_checkpoint(path, again)
    before = float(again.ada.probability)
    for seen, mean in ((24, -1.0), (32, 1.0), (40, 1.0)):
        for each in (gan.ada, again.ada):
            each.see(signs(mean, 8), 8, seen)
        states = [each.state_dict() for each in (gan.ada, again.ada)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert abs(float(again.ada.probability) - before) == pytest.approx(40 / 200)


def test_signs_of_a_bad_step_do_not_count():
    section = Ada(initial_probability=0.5, every_images=16, images_to_one=1000, target=0.0)
    ada, nan = AdaptiveProbability(section), torch.tensor(torch.nan, dtype=torch.float64)
    ada.see(signs(1.0, 8), 8, 0, bad=torch.tensor(False))
    ada.see(nan, 8, 8, bad=torch.tensor(True))
    assert float(ada.probability) == pytest.approx(0.508, abs=1e-12), "the mean of the good ones, for as many images"
    for seen in (16, 24):
        ada.see(nan, 8, seen, bad=torch.tensor(True))
    assert float(ada.probability) == pytest.approx(0.508, abs=1e-12), "none is no mean of 0"
    assert float(ada.sign_sum) == int(ada.num_signs) == 0
