"""When steps are left out too often in a row, all ranks stop at once, and say what was wrong and where."""

import re

import pytest
import torch

from t2f_dist.data.loader import batches, open_samples
from t2f_dist.data.order import Place
from t2f_dist.training.divergence import Diverged, Divergence
from t2f_dist.training.growth import Growth
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.step import train_step
from tests.data import mixed
from tests.training.short_run import untrained
from tests.training.small import config


def _until_diverged(rank, world_size, settings, limit, bad=(), scale=None):
    """(images seen before the step in which it was told, images_seen, network, text), or None where all goes well.

    bad: images before the steps in which the last rank draws its second fake from NaN. scale: of a scaler of both.
    """
    gan, growth, samples = untrained(settings, world_size), Growth(settings.stages), open_samples(settings)
    if scale:
        for side in gan.sides:
            side.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    divergence = Divergence(limit, Ranks(60), samples)
    steps = list(growth.steps(0))
    try:
        for batch, (seen, size, _) in zip(batches(samples, steps, rank, world_size, 0), steps, strict=True):
            if seen in bad and rank == world_size - 1:
                batch.z[1] = torch.nan
            metrics = train_step(gan, batch, growth.at(seen), seen, 1)
            gan.update_ema(seen, size)
            try:
                divergence.watch(gan, batch, metrics, seen)
            except Diverged as error:
                return seen, error.images_seen, error.network, str(error)
    finally:
        gan.release()
        samples.close()
    return None


def test_both_ranks_stop_at_the_same_step_and_name_what_one_of_them_met(pair, portrait_shards):
    settings = config("house", portrait_shards, portrait_shards)
    first, second = pair.run(_until_diverged, settings, 3, (16, 32, 40, 48, 56))
    assert first == second
    seen, images_seen, network, text = first
    assert (seen, images_seen, network) == (48, 32, "generator"), "that of 16 was followed by a good one"
    assert text.startswith("3 steps of the generator in a row, from 32 images on, were left out")
    assert re.search(r"the gradient of generator\.\S+, generator\.\S+, generator\.\S+ and \d+ more, \d+ of \d+", text)
    assert "rank 1: generator/adversarial is nan" in text and "rank 0" not in text
    # Of a rank's four, the first two are compared by the minibatch standard deviation.
    named = re.search(r"samples whose fake has a score that is no number: (.*?)\.tar, (.*?)\.tar", text)
    assert named and all(re.fullmatch(r"\S+ in train-\d{6}", name) for name in named.groups())
    assert "\n" not in text


def test_a_bad_step_now_and_then_is_none_too_many(pair, portrait_shards):
    settings = config("house", portrait_shards, portrait_shards)
    assert pair.run(_until_diverged, settings, 3, (16, 24, 40, 48, 64, 72)) == [None, None]


@pytest.mark.parametrize("which", ["condition", "mismatched"])
def test_the_one_sample_whose_condition_is_bad_is_named_by_its_key(tmp_path, which):
    """As a sample of its own, or as the mismatched one of another."""
    shards = mixed.write(tmp_path / "shards")
    settings = config("house", shards, tmp_path, "condition.caption={kind: stored}", "data.mismatch_candidates=1")
    gan, phase, samples = untrained(settings), Growth(settings.stages).at(0), open_samples(settings)
    batch = next(batches(samples, Growth(settings.stages).steps(0), 0, 1, 0))
    values, lengths = getattr(batch, which)["caption"]
    row = int(lengths.nonzero()[1])
    values[row] = torch.nan
    metrics = train_step(gan, batch, phase, 0, 1)
    with pytest.raises(Diverged) as caught:
        Divergence(1, Ranks(60), samples).watch(gan, batch, metrics, 0)
    samples.close()
    place = Place(*(batch.places if which == "condition" else batch.mismatched_places)[row].tolist())
    assert re.findall(r"face-\d+ in \S+\.tar", str(caught.value)) == [
        f"face-{mixed.faces(place).number} in train-{place.shard:06}.tar"
    ]


def test_while_the_scaler_of_fp16_comes_down_nothing_counts(portrait_shards):
    """From 2^4, with every step overflowing: 4 halvings to 1, then as many as the limit."""
    settings = config("house", portrait_shards, portrait_shards, "train.precision=fp32")
    every = tuple(range(0, 128, 8))
    seen, images_seen, _, _ = _until_diverged(0, 1, settings, 3, every, scale=2.0**4) or pytest.fail("no end")
    assert images_seen == 0
    assert seen == 8 * (4 + 3 - 1)
    # It finds its scale before: nothing is told.
    assert _until_diverged(0, 1, settings, 1, every[:4], scale=2.0**4) is None
