"""Signs of a run that wastes its time are told once each time, and a sound run is told nothing."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.growth import Growth, due
from t2f_dist.training.launch.ranks import Ranks
from t2f_dist.training.run.health import FIRST_PATIENCE, PATIENCE, Alert, Health, Sign
from t2f_dist.training.run.meter import Meter, Report
from t2f_dist.training.step import train_step
from tests.training.short_run import untrained
from tests.training.small import RECIPES, config

SOUND = {
    "diversity/real": 0.3,
    "diversity/fake": 0.25,
    "score/real": 0.4,
    "score/fake": -0.6,
    "gradient_norm/generator": 5.0,
    "gradient_norm/discriminator": 2.0,
    "skipped_steps/generator": 0.0,
    "skipped_steps/discriminator": 0.0,
}
COLLAPSE = {"diversity/fake": 0.01}
BLIND = {"score/real": 0.1, "score/fake": 0.1, "gradient_norm/discriminator": 1e-9}
BEATEN = {"gradient_norm/generator": 1e-6}


def report(**means: float) -> Report:
    nothing: dict = dict.fromkeys(field for field in Report.__dataclass_fields__ if field != "means")
    return Report(means=means, **nothing)


def told(*changes: dict[str, float]) -> list[list[Alert]]:
    """What is told of each of these reports."""
    health = Health()
    return [health.see(report(**SOUND | change), 1000 * number) for number, change in enumerate(changes)]


def titles(*changes: dict[str, float]) -> list[list[str]]:
    return [[alert.title for alert in alerts] for alerts in told(*changes)]


@pytest.mark.parametrize(
    ("change", "title", "text"),
    [
        (COLLAPSE, "Mode collapse", "differ among themselves 3% as much as its reals do"),
        (BLIND, "Dead discriminator", "reals and fakes score the same (0.1, 0.1)"),
        (BEATEN, "The generator's gradient is nothing", "it is 2e-07 of what it was"),
    ],
)
def test_a_sign_is_told_after_some_reports_once_and_again_only_after_it_was_gone(change, title, text):
    before, after = [{}] * 5, PATIENCE - 1
    found = told(*before, *[change] * 6, {}, *[change] * 4)
    for number, alerts in enumerate(found):
        assert [alert.title for alert in alerts] == ([title] if number in (5 + after, 12 + after) else [])
    (alert,) = found[5 + after]
    assert alert.text.startswith(f"at {5 + after},000 images: ") and text in alert.text
    assert alert.level == "ERROR" and len(alert.title) < 64 and "\n" not in alert.text
    assert titles(*before, change, change, {}, change, change) == [[]] * 10, "not in a row"


def test_a_generator_that_begins_alike_is_given_time_and_told_if_it_stays_so():
    found = titles(*[COLLAPSE] * (FIRST_PATIENCE + 5))
    assert [bool(alerts) for alerts in found] == [False] * (FIRST_PATIENCE - 1) + [True] + [False] * 5
    assert titles(*[COLLAPSE] * (FIRST_PATIENCE - 1), *[{}] * 9) == [[]] * (FIRST_PATIENCE + 8)


def test_half_of_a_dead_discriminator_is_none():
    same = {name: BLIND[name] for name in ("score/real", "score/fake")}
    still = {"gradient_norm/discriminator": BLIND["gradient_norm/discriminator"]}
    assert titles(*[{}] * 5, *[same] * 9, *[still] * 9) == [[]] * 23, "a draw; and a discriminator that is sure"


@pytest.mark.parametrize(("share", "level"), [(0.06, "WARN"), (0.9, "ERROR")])
@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_steps_that_are_left_out_are_told_at_once(network, share, level):
    skipped = {f"skipped_steps/{network}": share}
    found = told({}, skipped, skipped, {f"skipped_steps/{network}": 0.02}, skipped, {}, skipped)
    assert [len(alerts) for alerts in found] == [0, 1, 0, 0, 0, 0, 1]
    assert found[1][0].title == f"Steps of the {network} are left out" and found[1][0].level == level
    assert titles({f"skipped_steps/{network}": 1 / 2000}) == [[]], "fp16 tries a scale too high now and then"


def test_terms_that_are_not_there_say_nothing():
    """A step in which the generator had no turn; all steps left out; a configuration without groups."""
    assert [Health().see(report(), 0) for _ in range(5)] == [[]] * 5
    health = Health()
    found = [health.see(report(**{"skipped_steps/discriminator": 1.0}), 0) for _ in range(5)]
    assert [len(alerts) for alerts in found] == [1, 0, 0, 0, 0]


@given(st.lists(st.sampled_from(["holds", "neither", "gone"]), max_size=30), st.integers(1, 4))
def test_a_sign_is_told_exactly_where_it_has_held_long_enough_since_it_was_gone(states, patience):
    sign, told_before, row = Sign(patience), False, 0
    for state in states:
        row = row + 1 if state == "holds" else 0
        told_before = told_before and state != "gone"
        expected = row >= patience and not told_before
        told_before = told_before or expected
        assert sign.see(state == "holds", state == "gone") == expected


def _reports(recipe, shards, rank=0, world_size=1, *options):
    settings = config(recipe, shards, shards, *options)
    gan, growth, samples = untrained(settings, world_size), Growth(settings.stages), open_samples(settings)
    meter, health, alerts, reports = Meter(Ranks(60)), Health(), [], []
    for batch, (seen, size, _) in zip(
        batches(samples, growth.steps(0), rank, world_size, 0), growth.steps(0), strict=True
    ):
        meter.add(train_step(gan, batch, growth.at(seen), seen, 1), size)
        gan.update_ema(seen, size)
        if due(16, seen, size):
            reports.append(meter.report())
            alerts += health.see(reports[-1], seen + size)
    samples.close()
    return reports, alerts


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[] if name in ("t2f", "dcgan") else [pytest.mark.slow]) for name in RECIPES]
)
def test_the_beginning_of_a_run_is_told_nothing(portrait_shards, recipe):
    """From the very first steps, at 4 pixels or at 8, where weights have learnt nothing."""
    reports, alerts = _reports(recipe, portrait_shards)
    assert alerts == []
    for found in reports:
        assert 0.1 < found.means["diversity/real"] < 1
        assert found.means["diversity/fake"] > 0


def test_diversity_is_the_deviation_within_groups(portrait_shards):
    settings = config("house", portrait_shards, portrait_shards)
    gan, samples = untrained(settings), open_samples(settings)
    batch = next(batches(samples, Growth(settings.stages).steps(0), 0, 1, 0))
    metrics = train_step(gan, batch, Growth(settings.stages).at(0), 0, 1)
    samples.close()
    images = batch.images.double() / 127.5 - 1
    assert settings.group_size == 4 and len(images) == 8
    expected = torch.stack([images[:4].std(dim=0), images[4:].std(dim=0)]).mean()
    torch.testing.assert_close(metrics["diversity/real"], expected)


@pytest.mark.parametrize("name", ["demo_reports.jsonl"])
def test_a_sound_run_is_told_nothing(name):
    """The reports of configs/demo.yaml at each 480 images up to 30,000: 4 pixels to 32, through three fades."""
    health = Health()
    lines = Path(__file__).with_name(name).read_text().splitlines()
    assert len(lines) == 62
    for line in lines:
        means = json.loads(line)
        assert health.see(report(**means), int(means["images"])) == []
