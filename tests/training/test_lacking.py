"""Samples that lack a condition, or have none to be mismatched with: what they take part in; that they do no harm."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t2f_dist.config.schema import Config
from t2f_dist.data.batch import Batch
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Growth
from t2f_dist.training.part import Part
from t2f_dist.training.step import train_step
from t2f_dist.training.terms import Terms, discriminator_terms
from tests.data import mixed
from tests.training.short_run import trained, untrained
from tests.training.small import config

QUARTER = ("house", "t2f", "both", "msggan", "dcgan")  # of the samples, or a third, lacks a modality of each of these


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fourth has no caption, every third no voice."""
    return mixed.write(tmp_path_factory.mktemp("lacking") / "shards")


class Rare(mixed.Face):
    """A voice of every twentieth alone, and a caption of every fourth."""

    @property
    def voice(self) -> np.ndarray:
        return super().voice if self.number % 20 == 0 else np.zeros(0, np.int16)

    @property
    def captions(self) -> tuple[str, ...]:
        return super().captions if self.number % 4 == 1 else ()


def first_batch(settings: Config) -> Batch:
    samples = open_samples(settings)
    batch = next(batches(samples, Growth(settings.stages).steps(0), 0, 1, 0))
    samples.close()
    return batch


def present(batch: Batch) -> torch.Tensor:
    return torch.stack([lengths > 0 for _, lengths in batch.condition.values()]).any(dim=0)


def without(batch: Batch, rows: torch.Tensor, *names: str) -> Batch:
    """These rows lack these inputs, "condition" or "mismatched", of every modality."""
    changes = {
        name: {
            modality: (values, torch.where(rows, 0, lengths))
            for modality, (values, lengths) in getattr(batch, name).items()
        }
        for name in names
    }
    return replace(batch, **changes)


def step(settings: Config, batch: Batch, num_parts: int = 1) -> tuple[Gan, dict[str, float]]:
    """The first."""
    gan = untrained(settings)
    metrics = train_step(gan, batch, Growth(settings.stages).at(0), 0, num_parts)
    return gan, {name: float(value) for name, value in metrics.items()}


def terms(settings: Config, batch: Batch) -> tuple[Part, Terms, torch.Tensor, torch.Tensor]:
    """Of the discriminator's first step: with its scores of the fakes and of the mismatched, [N] each."""
    gan, phase = untrained(settings), Growth(settings.stages).at(0)
    gan.enter(phase)
    part = Part(gan, batch.to(torch.device("cpu"), torch.float64), phase)
    with torch.no_grad():
        embedding, mismatched = part.encode_both()
        part.drawing = part.draw(embedding)
        _, fake = part.judge(part.drawing.fakes, embedding)
        features, _ = part.judge(part.reals, embedding)
        if settings.loss.matching.mismatched == "image":
            _, other = part.judge(part.mismatched_reals, embedding)
        else:
            other = part.score(features, mismatched)
    return part, discriminator_terms(gan, part, embedding, mismatched, 0), fake, other


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("recipe", QUARTER)
def test_the_first_gradients_are_of_ordinary_size(lacking: Path, recipe: str, precision: str):
    settings = config(recipe, lacking, lacking, f"train.precision={precision}")
    batch = first_batch(settings)
    batch = without(batch, torch.arange(8) % 4 == 1, "condition", "mismatched")
    assert 1 <= int((~present(batch)).sum()) <= 5
    _, metrics = step(settings, batch)
    for side in ("discriminator", "generator"):
        assert 0 < metrics[f"gradient_norm/{side}"] < 1e3
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("recipe", QUARTER)
def test_two_parts_are_one_to_float64_accuracy(lacking: Path, recipe: str):
    settings = config(recipe, lacking, lacking)
    batch = first_batch(settings)
    batch = without(batch, torch.arange(8) % 4 == 1, "condition", "mismatched")
    batch = without(batch, torch.arange(8) == 6, "mismatched")
    (one, metrics), (two, in_parts) = step(settings, batch, 1), step(settings, batch, 2)
    assert metrics.keys() == in_parts.keys()
    for name, value in metrics.items():
        assert abs(in_parts[name] - value) <= 1e-9 * max(1.0, abs(value)), name
    state = two.networks.state_dict()
    for name, tensor in one.networks.state_dict().items():
        assert float((state[name].double() - tensor.double()).abs().max()) <= 1e-9, name


@pytest.mark.parametrize(
    ("recipe", "kind"), [("house", "non_saturating"), ("both", "hinge"), ("dcgan", "least_squares"), ("t2f", "wgan")]
)
def test_where_nothing_is_mismatched_the_fake_takes_its_place(lacking: Path, recipe: str, kind: str):
    options = (f"loss.adversarial={{kind: {kind}}}", "augment=null", "loss.penalties=[]")
    settings = config(recipe, lacking, lacking, *options)
    of_image = settings.loss.matching.mismatched == "image"
    everyone = torch.ones(8, dtype=torch.bool)
    names = ("condition",) if of_image else ("mismatched",)
    _, found, *_ = terms(settings, without(first_batch(settings), everyone, *names))
    assert torch.equal(found.values["discriminator/mismatched"], found.values["discriminator/fake"])
    some = torch.arange(8) % 3 == 0
    part, found, fake, other = terms(settings, without(first_batch(settings), some, *names))
    counts = part.present if of_image else part.opposed
    assert not counts[some].any() and 0 < int(counts.sum()) < 8
    torch.testing.assert_close(found.values["score/mismatched"], torch.where(counts, other, fake).mean())
    _, plain, *_ = terms(settings, first_batch(settings))
    assert plain.values["discriminator/mismatched"] != found.values["discriminator/mismatched"]


def test_whose_the_negatives_are(lacking: Path):
    settings = config("house", lacking, lacking)
    batch = without(first_batch(settings), torch.arange(8) == 2, "mismatched")
    part = Part(untrained(settings), batch, Growth(settings.stages).at(0))
    assert part.present.tolist() == present(batch).tolist()
    _, lengths = batch.mismatched["caption"]
    assert part.opposed.tolist() == (lengths > 0).tolist() and not part.opposed[2]
    expected = torch.where(lengths > 0, batch.mismatched_identities, batch.identities)
    assert torch.equal(part.negative_identities, expected)
    assert not (batch.mismatched_identities == batch.identities).any()


def test_without_any_condition_the_contrastive_term_is_zero(lacking: Path):
    settings = config("both", lacking, lacking, "augment=null")
    everyone = torch.ones(8, dtype=torch.bool)
    gan, metrics = step(settings, without(first_batch(settings), everyone, "condition", "mismatched"))
    assert metrics["discriminator/contrastive"] == metrics["generator/contrastive"] == 0
    assert gan.networks.queue is not None
    assert int(gan.networks.queue.num_pushed) == 8 and not gan.networks.queue.counts.any()


def test_the_queue_knows_who_had_a_condition(lacking: Path):
    settings = config("both", lacking, lacking)
    batch = without(first_batch(settings), torch.arange(8) % 4 == 1, "condition")
    for num_parts in (1, 2):
        gan, _ = step(settings, batch, num_parts)
        queue = gan.networks.queue
        assert queue is not None
        assert queue.counts.tolist() == [*present(batch).tolist(), False, False, False, False]
        rivals = queue.rivals(batch.identities)
        assert not rivals[:, :8][:, ~present(batch)].any() and not rivals[:, 8:].any()
        assert rivals.any()


@pytest.mark.parametrize("recipe", ["both", "house"])
def test_a_corpus_in_which_almost_everyone_lacks_it_is_trained_on_to_the_end(tmp_path: Path, recipe: str):
    shards = mixed.write(tmp_path / "shards", Rare)
    gan = trained(config(recipe, shards, tmp_path))
    assert all(bool(parameter.isfinite().all()) for parameter in gan.networks.parameters())


@pytest.mark.parametrize(
    ("kind", "score", "sign"),
    [("least_squares", 0.4, -1), ("least_squares", 0.6, 1), ("non_saturating", 0.4, 1), ("non_saturating", -0.1, -1),
     ("hinge", 0.4, 1), ("hinge", -0.1, -1)],
)  # fmt: skip
def test_adaptive_augmentation_reads_on_which_side_of_the_boundary_a_real_is(lacking: Path, kind, score, sign):
    """Between the labels 0 and 1 of least squares that is one half, else 0."""
    settings = config("both", lacking, lacking, f"loss.adversarial.kind={kind}")
    gan, batch = untrained(settings), first_batch(settings)
    with torch.no_grad():  # every score is its bias
        for name, parameter in gan.networks.discriminator.named_parameters():
            if name.endswith("out.bias"):
                parameter.fill_(score)
            elif "out." in name or ".embedding." in name:
                parameter.zero_()
    phase = Growth(settings.stages).at(0)
    metrics = train_step(gan, batch, phase, 0, 1)
    assert float(metrics["score/real"]) == pytest.approx(score)
    assert float(metrics["augment/real_sign"]) == sign
