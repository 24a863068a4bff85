"""One training step on a rank's share of a global batch: discriminator, then generator, on the same fakes.

The generator does not change while the discriminator learns, so both learn from one drawing of the fakes. Where the
share is accumulated in parts, the drawing is repeated instead of kept, with the same noise and the same embedding: the
numbers are those of one part, and so is the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from t2f_dist.data.batch import Batch
from t2f_dist.losses.adversarial import ADVERSARIAL, drift
from t2f_dist.losses.matching import contrastive, kl_to_unit_gaussian
from t2f_dist.losses.penalties import PENALTIES
from t2f_dist.models.layers import at_least_float32, downsample, upsample
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase, due

Metrics = dict[str, Tensor]


def fade(images: Tensor, alpha: float) -> Tensor:
    """Real images blended with their own half resolution, as a fading generator blends (1710.10196, figure 2)."""
    return images if alpha >= 1 else torch.lerp(upsample(downsample(images)), images, alpha)


def train_step(gan: Gan, batch: Batch, phase: Phase, images_seen: int, num_parts: int) -> Metrics:
    """Both networks learn from a batch. Returns each loss term and gradient norm: scalar tensors on the device.

    All ranks call it with their shares of the same global batch.
    """
    gan.enter(phase)  # the loop has, before it counts the time of the step; then this does nothing
    batch = batch.to(gan.device, gan.precision.weights)
    parts = [_Part(gan, part, phase) for part in batch.split(num_parts)]
    metrics: Metrics = {}
    _discriminator_step(gan, parts, phase, images_seen, metrics)
    _generator_step(gan, parts, phase, metrics)
    return metrics


@dataclass
class _Drawing:
    fakes: Tensor  # [N, 3, R, R]
    mean: Tensor  # [N, S]
    log_variance: Tensor  # [N, S]


class _Part:
    """A part of a rank's share: its reals, its captions' embedding, its fakes."""

    def __init__(self, gan: Gan, batch: Batch, phase: Phase):
        self.gan, self.batch, self.phase = gan, batch, phase
        images = batch.images.to(gan.precision.weights) / 127.5 - 1
        if gan.config.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        self.reals = fade(images, phase.alpha)
        self.embedding = torch.empty(0)  # [N, E] of the matching captions
        self.mismatched = torch.empty(0)  # [N, E] of the mismatched ones
        self.drawing: _Drawing | None = None

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self.gan.networks.generator.text_encoder(tokens, lengths)

    def draw(self, embedding: Tensor) -> _Drawing:
        with self.gan.precision.autocast():
            fakes, mean, log_variance = self.gan.networks.generator(
                embedding, self.batch.condition_noise, self.batch.z, self.phase.resolution, self.phase.alpha
            )
        return _Drawing(fakes, at_least_float32(mean), at_least_float32(log_variance))


def _discriminator_step(gan: Gan, parts: list[_Part], phase: Phase, images_seen: int, metrics: Metrics) -> None:
    side, only = gan.discriminator_side, len(parts) == 1
    for number, part in enumerate(parts):
        batch = part.batch
        with side.accumulating(last=number == len(parts) - 1):
            if gan.networks.encoder_trained_by == "discriminator":
                # One pass for both captions: they are padded together, and packing makes padding invisible.
                embedding, mismatched = side.compute(_encode_both, part)
                part.embedding = embedding.detach()
            else:
                with torch.set_grad_enabled(only):
                    part.embedding = gan.generator_side.compute(part.encode, batch.tokens, batch.lengths)
                embedding = part.embedding.detach()
                with torch.no_grad():
                    mismatched = part.encode(batch.mismatched_tokens, batch.mismatched_lengths)
            part.mismatched = mismatched.detach()
            with torch.set_grad_enabled(only):
                part.drawing = gan.generator_side.compute(part.draw, part.embedding)
            loss, terms = side.compute(_discriminator_loss, gan, part, embedding, mismatched, images_seen)
            side.backward(loss / len(parts))
        if not only:
            part.drawing = None
        _add(metrics, terms, len(parts))
    metrics.update(side.step(phase.learning_rate_factor))


def _encode_both(part: _Part) -> tuple[Tensor, Tensor]:
    batch = part.batch
    width = max(batch.tokens.shape[1], batch.mismatched_tokens.shape[1])
    tokens = torch.cat(
        [
            torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]))
            for tokens in (batch.tokens, batch.mismatched_tokens)
        ]
    )
    embedding, mismatched = part.encode(tokens, torch.cat([batch.lengths, batch.mismatched_lengths])).chunk(2)
    return embedding, mismatched


def _discriminator_loss(
    gan: Gan, part: _Part, embedding: Tensor, mismatched: Tensor, images_seen: int
) -> tuple[Tensor, Metrics]:
    config, phase, discriminator = gan.config.loss, part.phase, gan.networks.discriminator
    assert part.drawing is not None
    reals, fakes = part.reals, part.drawing.fakes.detach()
    adversarial = ADVERSARIAL[config.adversarial]
    with gan.precision.autocast():
        real_features = discriminator.features(reals, phase.resolution, phase.alpha)
        fake_features = discriminator.features(fakes, phase.resolution, phase.alpha)
        real_logits = at_least_float32(discriminator.logits(real_features, embedding))
        fake_logits = at_least_float32(discriminator.logits(fake_features, embedding))
        mismatched_logits = at_least_float32(discriminator.logits(real_features, mismatched))
    terms = {
        "discriminator/real": adversarial.real(real_logits),
        "discriminator/fake": adversarial.fake(fake_logits),
        "score/real": real_logits.mean(),
        "score/fake": fake_logits.mean(),
        "score/mismatched": mismatched_logits.mean(),
    }
    loss = terms["discriminator/real"] + terms["discriminator/fake"]
    if config.matching_weight:
        terms["discriminator/mismatched"] = adversarial.fake(mismatched_logits)
        loss = loss + config.matching_weight * terms["discriminator/mismatched"]
    if config.drift_weight:
        terms["discriminator/drift"] = drift(real_logits)
        loss = loss + config.drift_weight * terms["discriminator/drift"]
    if config.contrastive.used:
        terms["discriminator/contrastive"] = _contrastive(gan, real_features, embedding, mismatched)
        loss = loss + config.contrastive.discriminator_weight * terms["discriminator/contrastive"]
    every = config.penalty.every_images
    if config.penalty.kind != "none" and due(every, images_seen, phase.batch_size):
        terms["discriminator/penalty"] = _penalty(gan, part, embedding.detach(), reals, fakes)
        lazy = max(1.0, every / phase.batch_size)  # applied once for so many steps
        loss = loss + config.penalty.weight * lazy * terms["discriminator/penalty"]
        if gan.discriminator_side.scaler.is_enabled():  # it overflows where the step is skipped
            terms["discriminator/penalty"] = terms["discriminator/penalty"].nan_to_num(0.0, 0.0, 0.0)
    return loss, {name: term.detach() for name, term in terms.items()}


def _penalty(gan: Gan, part: _Part, embedding: Tensor, reals: Tensor, fakes: Tensor) -> Tensor:
    discriminator, phase = gan.networks.discriminator, part.phase

    def score(images: Tensor) -> Tensor:
        with gan.precision.autocast():
            features = discriminator.features(images, phase.resolution, phase.alpha)
            return at_least_float32(discriminator.logits(features, embedding))

    penalty = PENALTIES[gan.config.loss.penalty.kind]
    return penalty(score, reals, fakes, part.batch.mixing, gan.discriminator_side.scaler.get_scale())


def _contrastive(gan: Gan, features: Tensor, embedding: Tensor, mismatched: Tensor) -> Tensor:
    head, config = gan.networks.contrastive, gan.config.loss.contrastive
    assert head is not None
    with gan.precision.autocast():
        images, captions = head.images(features), head.captions(embedding)
        negatives = head.captions(mismatched) if config.hard_negatives else None
    return contrastive(images, captions, config.temperature, config.group_size, negatives)


def _generator_step(gan: Gan, parts: list[_Part], phase: Phase, metrics: Metrics) -> None:
    side, only = gan.generator_side, len(parts) == 1
    with gan.discriminator_side.frozen():
        for number, part in enumerate(parts):
            with side.accumulating(last=number == len(parts) - 1):
                if not only:  # again, now with a graph
                    if gan.networks.encoder_trained_by == "generator":
                        part.embedding = side.compute(part.encode, part.batch.tokens, part.batch.lengths)
                    part.drawing = side.compute(part.draw, part.embedding)
                loss, terms = _generator_loss(gan, part)
                side.backward(loss / len(parts))
            part.drawing = None
            _add(metrics, terms, len(parts))
    metrics.update(side.step(phase.learning_rate_factor))


def _generator_loss(gan: Gan, part: _Part) -> tuple[Tensor, Metrics]:
    config, phase, drawing = gan.config, part.phase, part.drawing
    assert drawing is not None
    discriminator = gan.networks.discriminator
    with gan.precision.autocast():
        features = discriminator.features(drawing.fakes, phase.resolution, phase.alpha)
        logits = at_least_float32(discriminator.logits(features, part.embedding))
    terms = {
        "generator/adversarial": ADVERSARIAL[config.loss.adversarial].generated(logits),
        "generator/kl": kl_to_unit_gaussian(drawing.mean, drawing.log_variance),
    }
    loss = terms["generator/adversarial"] + config.conditioning.kl_weight * terms["generator/kl"]
    if config.loss.contrastive.generator_weight:
        terms["generator/contrastive"] = _contrastive(gan, features, part.embedding, part.mismatched)
        loss = loss + config.loss.contrastive.generator_weight * terms["generator/contrastive"]
    return loss, {name: term.detach() for name, term in terms.items()}


def _add(metrics: Metrics, terms: Metrics, num_parts: int) -> None:
    for name, term in terms.items():
        metrics[name] = metrics[name] + term / num_parts if name in metrics else term / num_parts
