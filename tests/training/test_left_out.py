"""A step whose loss or gradient is no finite number is left out: by all ranks, with all that goes along with it."""

import pytest
import torch

from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.growth import Growth
from t2f_dist.training.part import Part
from t2f_dist.training.step import train_step
from tests.training.short_run import unequal, untrained
from tests.training.small import RECIPES, config

BAD = 32  # images seen before the bad step: moments are there, and the generator has its turn in every recipe
END = 56
FEW = ("both", "dcgan")  # a queue and ADA; batch statistics
RECIPES_FAST_AND_SLOW = [
    pytest.param(recipe, marks=[] if recipe in FEW else [pytest.mark.slow]) for recipe in RECIPES
]  # fmt: skip


def _poison(gan, batch, what):
    """NaN in the first sample of a rank: in its image as the network sees it, or where everything begins."""
    if what == "everything" and batch.z.shape[1]:
        batch.z[0] = torch.nan
        return
    name = "_reals" if what == "real" else "encode"
    plain = getattr(Part, name)

    def poisoned(part, *args):
        result = plain(part, *args)
        first = result[0] if what == "real" else result
        hurt = first.clone()
        hurt[0] = torch.nan
        return (hurt, *result[1:]) if what == "real" else hurt

    setattr(Part, name, poisoned)
    gan.restore = lambda: setattr(Part, name, plain)


def _leave_out(side):
    """A step of which nothing is done: what the poisoned run is to come to."""

    def nothing(learning_rate_factor):
        side.optimizer.zero_grad(set_to_none=True)
        side.bad = torch.tensor(True)
        return {}

    plain, side.step = side.step, nothing
    return lambda: setattr(side, "step", plain)


def _trained(rank, world_size, recipe, shards, what, without, num_parts=1, options=()):
    """All that a checkpoint keeps after the steps to END, and the metrics of the step at BAD.

    what: poisons the last rank's share of the step at BAD. without: networks that do not step there.
    """
    settings = config(recipe, shards, shards, *options)
    gan, growth, samples = untrained(settings, world_size), Growth(settings.stages), open_samples(settings)
    steps = [step for step in growth.steps(0) if step[0] < END]
    bad = {}
    for batch, (seen, size, _) in zip(batches(samples, steps, rank, world_size, 0), steps, strict=True):
        gan.restore = lambda: None
        undo = [lambda: gan.restore()]
        if seen == BAD and what and rank == world_size - 1:
            _poison(gan, batch, what)
        if seen == BAD:
            undo += [_leave_out(side) for side in gan.sides if side.name in without]
        try:
            metrics = train_step(gan, batch, growth.at(seen), seen, num_parts)
        finally:
            for each in undo:
                each()
        gan.update_ema(seen, size)
        if seen == BAD:
            bad = {name: float(value) for name, value in metrics.items()}
        else:
            assert all(bool(value.isfinite()) for value in metrics.values()), (seen, metrics)
            assert metrics["skipped_steps/discriminator"] == 0
    gan.release()
    samples.close()
    return {name: tensor.clone() for name, tensor in (gan.weights() | gan.moments()).items()}, bad


def _skipped(metrics):
    return {name.partition("/")[2] for name, value in metrics.items() if name.startswith("skipped_steps/") and value}


@pytest.mark.parametrize("what", ["real", "everything"])
@pytest.mark.parametrize("recipe", RECIPES_FAST_AND_SLOW)
def test_a_bad_sample_of_one_rank_leaves_both_where_they_were(pair, portrait_shards, recipe, what):
    """To the bit, weights, moments, average, statistics, queue and augmentation; and it trains on as if nothing had
    been."""
    (first, metrics), (second, others) = pair.run(_trained, recipe, portrait_shards, what, ())
    assert unequal(first, second) == []
    skipped = _skipped(metrics)
    assert "discriminator" in skipped and skipped == _skipped(others)
    assert skipped == {"generator", "discriminator"} or what == "real"
    (quiet, _), _ = pair.run(_trained, recipe, portrait_shards, None, tuple(skipped))
    assert unequal(first, quiet) == []
    if what == "everything":
        (whole, _), _ = pair.run(_trained, recipe, portrait_shards, None, ())
        assert unequal(quiet, whole), "the step would have changed something"


@pytest.mark.parametrize("recipe", ["both"])
def test_a_share_in_parts_is_left_out_whole(portrait_shards, recipe):
    found, metrics = _trained(0, 1, recipe, portrait_shards, "real", (), 2)
    assert "discriminator" in _skipped(metrics)
    quiet, _ = _trained(0, 1, recipe, portrait_shards, None, tuple(_skipped(metrics)), 2)
    assert unequal(found, quiet) == []


@pytest.mark.parametrize("options", [("train.precision=fp32",), ("train.precision=bf16", "train.channels_last=true")])
def test_it_is_the_same_in_other_precisions(portrait_shards, options):
    found, metrics = _trained(0, 1, "house", portrait_shards, "everything", (), 1, options)
    assert _skipped(metrics) == {"generator", "discriminator"}
    quiet, _ = _trained(0, 1, "house", portrait_shards, None, ("generator", "discriminator"), 1, options)
    assert unequal(found, quiet) == []


def _stepped(portrait_shards, scale, spoil=1.0, times=1):
    """A house with a scaler for its discriminator: its side, and the norms of steps of a loss with known gradient."""
    settings = config("house", portrait_shards, portrait_shards, "train.precision=fp32")
    gan = untrained(settings)
    gan.enter(Growth(settings.stages).at(0))
    side = gan.discriminator_side
    if scale is not None:
        side.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    found = []
    for _ in range(times):
        loss = sum((parameter.sum() for parameter in side.parameters), torch.zeros(()))
        side.backward(loss * spoil)
        found.append(side.step(1.0))
    return side, found


def test_a_loss_that_is_no_number_has_no_gradient_that_is_one_and_a_finite_one_is_as_it_was(portrait_shards):
    side, (found,) = _stepped(portrait_shards, None)
    num = sum(parameter.numel() for parameter in side.parameters)
    assert float(found["gradient_norm/discriminator"]) == pytest.approx(num**0.5, rel=1e-6)
    assert float(found["skipped_steps/discriminator"]) == 0
    for spoil in (torch.nan, torch.inf, -torch.inf):
        side, (found,) = _stepped(portrait_shards, None, spoil)
        assert not any(norm.isfinite() for norm in side.gradient_norms)
        assert float(found["skipped_steps/discriminator"]) == 1
        assert all(not state["exp_avg"].any() and state["step"] == 0 for state in side.optimizer.state.values())


def test_a_norm_that_overflows_is_no_number_though_each_gradient_is_one(portrait_shards):
    side, (found,) = _stepped(portrait_shards, None, spoil=1e30)
    assert side.bad and float(found["skipped_steps/discriminator"]) == 1


def test_the_scaler_of_fp16_halves_its_scale_and_its_network_alone_waits(portrait_shards):
    """The scaler is the one of fp16, on gradients in float32: it overflows where scale times gradient does."""
    side, found = _stepped(portrait_shards, scale=2.0**127, spoil=8.0, times=4)
    assert [float(each["skipped_steps/discriminator"]) for each in found] == [1, 1, 1, 0]
    assert side.scaler.get_scale() == 2.0**124
    num = sum(parameter.numel() for parameter in side.parameters)
    assert float(found[-1]["gradient_norm/discriminator"]) == pytest.approx(8 * num**0.5, rel=1e-6)
    assert all(state["step"] == 1 for state in side.optimizer.state.values())
    assert not side.settled, "a scale that can come down is still looked for"


def test_a_scale_at_its_floor_is_settled(portrait_shards):
    side, _ = _stepped(portrait_shards, scale=2.0, spoil=torch.nan, times=2)
    assert side.settled and side.scaler.get_scale() == 0.5
    assert _stepped(portrait_shards, None)[0].settled, "without a scaler there is no scale to find"
