"""What the discriminator is shown: real images faded like fakes, and each kind augmented by draws of its own."""

import pytest
import torch

from t2f_dist.data.batch import Batch
from t2f_dist.data.loader import batches, open_samples
from t2f_dist.models.augment import augment
from t2f_dist.training.growth import Growth
from t2f_dist.training.part import FAKES, GENERATED, REALS, Part, fade
from t2f_dist.training.step import train_step
from tests.training.short_run import untrained
from tests.training.small import config

DIFFAUGMENT = "augment={kind: diffaugment}"
KINDS = {"real": REALS, "fake": FAKES, "generated": GENERATED}


def first_batch(settings) -> Batch:
    samples = open_samples(settings)
    batch = next(batches(samples, Growth(settings.stages).steps(0), 0, 1, 0))
    samples.close()
    return batch


def test_reals_are_faded_like_fakes():
    images = torch.arange(16.0).view(1, 1, 4, 4)
    blurred = fade(images, 0.0)
    assert torch.equal(blurred[0, 0, :2, :2], torch.full((2, 2), 2.5))
    torch.testing.assert_close(fade(images, 0.25), 0.75 * blurred + 0.25 * images)
    assert fade(images, 1.0) is images


def test_stored_images_are_seen_in_minus_one_to_one(portrait_shards):
    settings = config("msggan", portrait_shards, portrait_shards)
    batch = first_batch(settings)
    reals = Part(untrained(settings), batch, Growth(settings.stages).at(0)).reals
    assert [image.shape[-1] for image in reals] == [4, 8]
    torch.testing.assert_close((reals[-1] + 1) * 127.5, batch.images.double())
    torch.testing.assert_close(reals[0], torch.nn.functional.avg_pool2d(reals[1], 2))


def test_each_kind_is_augmented_by_its_own_draws_at_the_present_probability(portrait_shards):
    settings = config("both", portrait_shards, portrait_shards)
    gan, batch = untrained(settings), first_batch(settings)
    part = Part(gan, batch, Growth(settings.stages).at(0))
    assert gan.ada is not None and settings.augment is not None
    for probability in (0.9, 0.4):
        gan.ada.probability.fill_(probability)
        shown = [part.seen(part.reals, whose)[0] for whose in KINDS.values()]
        for whose, image in zip(KINDS.values(), shown, strict=True):
            expected = augment(part.reals, batch.augment[:, whose], probability, settings.augment)[0]
            assert torch.equal(image, expected)
            assert not torch.equal(image, part.reals[0])
        assert not torch.equal(shown[REALS], shown[FAKES])
        assert not torch.equal(shown[FAKES], shown[GENERATED])
    gan.ada.probability.zero_()
    assert torch.equal(part.seen(part.reals, REALS)[0], part.reals[0])


def test_without_augmentation_they_are_seen_as_they_are(portrait_shards):
    settings = config("house", portrait_shards, portrait_shards)
    part = Part(untrained(settings), first_batch(settings), Growth(settings.stages).at(0))
    assert part.seen(part.reals, REALS) is part.reals


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("augmentation", [DIFFAUGMENT, "augment={kind: ada, initial_probability: 0.9}"])
def test_in_a_step_other_draws_of_one_kind_change_the_scores_of_that_kind_alone(portrait_shards, kind, augmentation):
    settings = config("house", portrait_shards, portrait_shards, augmentation, "loss.penalties=[]")
    plain = first_batch(settings)
    other = first_batch(settings)
    other.augment[:, KINDS[kind]] = 1 - other.augment[:, KINDS[kind]]
    phase = Growth(settings.stages).at(0)
    metrics = [train_step(untrained(settings), batch, phase, 0, 1) for batch in (plain, other)]
    names = {"real": "score/real", "fake": "score/fake", "generated": "generator/adversarial"}
    changed = {each for each, name in names.items() if not torch.equal(metrics[0][name], metrics[1][name])}
    # Through the discriminator's weights, what it saw has a part in what the generator's step then meets.
    assert changed == {kind, "generated"}


def test_augmented_fakes_pass_their_gradient_to_the_generator(portrait_shards):
    settings = config("house", portrait_shards, portrait_shards, DIFFAUGMENT)
    part = Part(untrained(settings), first_batch(settings), Growth(settings.stages).at(0))
    fakes = (part.reals[0].clone().requires_grad_(),)
    part.seen(fakes, GENERATED)[0].square().sum().backward()
    assert fakes[0].grad is not None and float(fakes[0].grad.abs().sum()) > 0
