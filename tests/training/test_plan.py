from pathlib import Path

import pytest

from t2f_dist.models.networks import build
from t2f_dist.training.plan import NOMINAL, table
from tests.training.small import RECIPES, config

HERE = Path("nowhere")


def rows(text: str) -> list[dict[str, str]]:
    lines = text.splitlines()
    names = (
        "stage",
        "resolution",
        "fade",
        "stable",
        "batch",
        "steps",
        "parts",
        "generator",
        "discriminator",
        "exchange",
    )
    return [dict(zip(names, line.split(), strict=False)) for line in lines[1:] if line.lstrip()[:1].isdigit()]


def test_parameters_and_bytes_are_those_counted_by_hand():
    conditioning = 8 * 8 + 8  # embedding 8 to mean and log variance of 4
    stem = (10 * 192 + 192) + (12 * 12 * 9 + 12)
    generator = [conditioning + stem + (12 * 3 + 3)]
    generator.append(generator[0] + (12 * 8 * 9 + 8) + (8 * 3 + 3))  # the layer of 4 pixels is there while it fades
    encoder = (
        NOMINAL.num_words * 6 + 2 * (4 * 4 * (6 + 4) + 2 * 4 * 4) + 8
    )  # and what stands for a caption that is missing
    head = (12 * 12 * 16 + 12) + (12 + 1) + (12 * 8 + 8) + (8 * 8 + 8)
    contrastive = (12 * 6 + 6) + (8 * 6 + 6)
    discriminator = [(3 * 12 + 12) + (13 * 12 * 9 + 12) + head + contrastive + encoder]
    discriminator.append(discriminator[0] + (8 * 12 * 9 + 12) + (3 * 8 + 8))
    for precision, width in (("fp32", 4), ("bf16", 4), ("fp64", 8)):
        found = rows(table(config("house", HERE, HERE, f"train.precision={precision}"), 2))
        assert [int(row["generator"].replace(",", "")) for row in found] == generator
        assert [int(row["discriminator"].replace(",", "")) for row in found] == discriminator
        exchange = [(a + b) * width / 1e6 for a, b in zip(generator, discriminator, strict=True)]
        assert [float(row["exchange"]) for row in found] == pytest.approx(exchange, abs=0.006)


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_the_shards_it_counts_what_is_built(recipe: str):
    networks = build(config(recipe, HERE, HERE), NOMINAL)
    last = rows(table(config(recipe, HERE, HERE), 1))[-1]
    total = sum(parameter.numel() for parameter in networks.parameters())
    assert int(last["generator"].replace(",", "")) + int(last["discriminator"].replace(",", "")) == total


def test_the_stages_and_the_legal_numbers_of_ranks():
    text = table(config("house", HERE, HERE, "train.batch_per_gpu_max=4", batch_size=24), 2)
    first, second = rows(text)
    assert [first[key] for key in ("stage", "resolution", "fade", "stable", "batch", "steps", "parts")] == [
        "0", "4", "0", "48", "24", "2", "3",
    ]  # fmt: skip
    assert [second[key] for key in ("stage", "resolution", "fade", "stable", "batch", "steps", "parts")] == [
        "1", "8", "48", "32", "24", "4", "3",
    ]  # fmt: skip
    assert text.endswith("without cutting a group: 1, 2, 3, 6")
    assert "128 images" in text


def test_networks_of_any_size_are_counted_without_being_made():
    wide = ("generator.channels=[60000, 60000]", "discriminator.channels=[60000, 60000]")
    row = rows(table(config("house", HERE, HERE, *wide), 1))[1]
    assert int(row["generator"].replace(",", "")) > 2 * 9 * 60_000**2


def test_a_launch_that_would_cut_a_group_is_refused():
    with pytest.raises(ValueError, match=r"4 ranks .* ranks that fit: 1, 2;"):
        table(config("house", HERE, HERE), 4)
