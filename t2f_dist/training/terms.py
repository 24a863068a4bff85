"""What each network minimises: the terms that the configuration asks for, with their weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from t2f_dist.losses.adversarial import ADVERSARIAL, Labels, drift
from t2f_dist.losses.features import feature_matching, l1
from t2f_dist.losses.matching import contrastive, kl_to_unit_gaussian
from t2f_dist.losses.penalties import PENALTIES
from t2f_dist.models.layers import Images, at_least_float32
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import due
from t2f_dist.training.part import FAKES, GENERATED, REALS, Part

Metrics = dict[str, Tensor]
BOUNDARIES = {"least_squares": 0.5}  # the score of what may be real or fake, where it is not 0


class Terms:
    """A weighted sum, and its terms by name as scalars without a graph."""

    def __init__(self) -> None:
        self.loss = torch.zeros(())
        self.values: Metrics = {}

    def add(self, name: str, term: Tensor, weight: float = 1.0) -> None:
        self.loss = self.loss.to(term) + weight * term
        self.note(name, term)

    def note(self, name: str, value: Tensor) -> None:
        self.values[name] = value.detach()


def discriminator_terms(gan: Gan, part: Part, embedding: Tensor, mismatched: Tensor, images_seen: int) -> Terms:
    """Of the reals against the fakes of `part.drawing`, which get no gradient."""
    config, terms = gan.config.loss, Terms()
    assert part.drawing is not None
    reals = part.seen(part.reals, REALS)
    fakes = part.seen(tuple(image.detach() for image in part.drawing.fakes), FAKES)
    features, real_logits = part.judge(reals, embedding)
    _, fake_logits = part.judge(fakes, embedding)
    _note_diversity(gan, part, terms)
    part.suspect(condition=embedding, mismatched=mismatched, real=real_logits, fake=fake_logits)
    boundary = BOUNDARIES.get(config.adversarial.kind, 0.0)
    part.sign_sum = (real_logits.detach() - boundary).sign().double().sum()
    adversarial, labels = ADVERSARIAL[config.adversarial.kind], _labels(gan)
    terms.add("discriminator/real", adversarial.real(real_logits, fake_logits, labels))
    terms.add("discriminator/fake", adversarial.fake(real_logits, fake_logits, labels))
    terms.note("score/real", real_logits.mean())
    terms.note("score/fake", fake_logits.mean())
    if config.matching.weight:
        if config.matching.mismatched == "condition":
            counts, other_logits = part.opposed, part.score(features, mismatched)
        else:
            counts, (_, other_logits) = part.present, part.judge(part.seen(part.mismatched_reals, REALS), embedding)
        part.suspect(mismatched=other_logits)
        # Where there is nothing to mismatch, the pair would be as real as any: the fake takes its place.
        other_logits = torch.where(counts, other_logits, fake_logits)
        term = adversarial.fake(real_logits, other_logits, labels)
        terms.add("discriminator/mismatched", term, config.matching.weight)
        terms.note("score/mismatched", other_logits.mean())
    if config.drift_weight:
        terms.add("discriminator/drift", drift(real_logits), config.drift_weight)
    if config.contrastive.used:
        term, part.condition_vectors = _contrastive(gan, part, features, embedding, mismatched)
        terms.add("discriminator/contrastive", term, config.contrastive.discriminator_weight)
    if config.identity.image_weight:
        term = _image_identity(gan, part, features)
        terms.add("discriminator/image_identity", term, config.identity.image_weight)
    if gan.networks.encoder_trained_by == "discriminator":
        _add_condition_identity(gan, part, embedding, terms)
    _add_penalties(gan, part, embedding.detach(), reals, fakes, images_seen, terms)
    return terms


@torch.no_grad()
def _note_diversity(gan: Gan, part: Part, terms: Terms) -> None:
    """How much images differ from each other: the standard deviation of a pixel within groups of positions, on average.

    The groups are those that no rank and no part cuts: the same images stand in one however many ranks there are.
    """
    size = gan.config.group_size
    assert part.drawing is not None
    if size > 1:
        for name, images in (("real", part.reals), ("fake", part.drawing.fakes)):
            terms.note(f"diversity/{name}", at_least_float32(images[-1]).unflatten(0, (-1, size)).std(dim=1).mean())


def _add_penalties(
    gan: Gan, part: Part, embedding: Tensor, reals: Images, fakes: Images, images_seen: int, terms: Terms
) -> None:
    """Taken at what the discriminator is shown, so that no second derivative of an augmentation is needed."""
    size, side = part.phase.batch_size, gan.discriminator_side
    for penalty in gan.config.loss.penalties:
        if not due(penalty.every_images, images_seen, size):
            continue

        def score(images: Images) -> Tensor:
            return part.judge(images, embedding)[1]

        term = PENALTIES[penalty.kind](score, reals, fakes, part.batch.mixing, side.scale)
        lazy = max(1.0, penalty.every_images / size)  # applied once for so many steps
        terms.add(f"discriminator/{penalty.kind}", term, penalty.weight * lazy)


def generator_terms(gan: Gan, part: Part) -> Terms:
    """Of the fakes of `part.drawing`, judged by a discriminator that is not trained now."""
    config, drawing, terms = gan.config, part.drawing, Terms()
    assert drawing is not None
    adversarial, labels = ADVERSARIAL[config.loss.adversarial.kind], _labels(gan)
    features, logits = part.judge(part.seen(drawing.fakes, GENERATED), part.embedding)
    part.suspect(fake=logits)
    real_features, real_logits = features, logits
    if adversarial.relative or config.loss.feature_matching.weight:
        with torch.no_grad():
            real_features, real_logits = part.judge(part.seen(part.reals, REALS), part.embedding)
    terms.add("generator/adversarial", adversarial.generated(real_logits, logits, labels))
    if config.noise_size:
        kl = kl_to_unit_gaussian(drawing.mean, drawing.log_variance)
        terms.add("generator/kl", kl, config.kl_weight)
    if config.loss.contrastive.generator_weight:
        term, _ = _contrastive(gan, part, features, part.embedding, part.mismatched)
        terms.add("generator/contrastive", term, config.loss.contrastive.generator_weight)
    matching = config.loss.feature_matching
    if matching.weight:
        term = feature_matching(features, real_features, matching.group_size)
        terms.add("generator/feature_matching", term, matching.weight)
    if config.loss.l1_weight:
        terms.add("generator/l1", l1(drawing.fakes, part.reals), config.loss.l1_weight)
    if config.loss.identity.image_weight:
        term = _image_identity(gan, part, features)
        terms.add("generator/image_identity", term, config.loss.identity.image_weight)
    if part.between is not None:
        _, between_logits = part.judge(part.seen(part.between.fakes, GENERATED), part.half_way)
        term = adversarial.generated(real_logits, between_logits, labels)
        terms.add("generator/interpolated", term, config.loss.matching.interpolation_weight)
    if gan.networks.encoder_trained_by == "generator":
        _add_condition_identity(gan, part, part.embedding, terms)
    return terms


def _labels(gan: Gan) -> Labels:
    config = gan.config.loss.adversarial
    return Labels(config.real_label, config.group_size)


def _contrastive(
    gan: Gan, part: Part, features: Tensor, embedding: Tensor, mismatched: Tensor
) -> tuple[Tensor, Tensor]:
    """The term, and the conditions' unit vectors [N, S] for the queue."""
    head, queue, config = gan.networks.contrastive, gan.networks.queue, gan.config.loss.contrastive
    assert head is not None
    with gan.precision.autocast():
        images, conditions = head.images(features), head.conditions(embedding)
        negatives = head.conditions(mismatched) if config.hard_negatives else None
    earlier = rivals = None
    if queue is not None:
        earlier, rivals = queue.vectors.clone(), queue.rivals(part.batch.identities)
    term = contrastive(
        images,
        conditions,
        config.temperature,
        config.group_size,
        negatives,
        earlier,
        rivals,
        identities=part.batch.identities,
        negative_identities=part.negative_identities,
        present=part.present,
    )
    return term, conditions.detach()


def _image_identity(gan: Gan, part: Part, features: Tensor) -> Tensor:
    head = gan.networks.image_identity
    assert head is not None
    with gan.precision.autocast():
        return F.cross_entropy(head(features), part.batch.identity_classes)


def _add_condition_identity(gan: Gan, part: Part, embedding: Tensor, terms: Terms) -> None:
    head = gan.networks.condition_identity
    if head is not None:
        with gan.precision.autocast():
            each = F.cross_entropy(head(embedding), part.batch.identity_classes, reduction="none")
        term = each.where(part.present, 0.0).mean()
        terms.add("condition/identity", term, gan.config.loss.identity.condition_weight)
