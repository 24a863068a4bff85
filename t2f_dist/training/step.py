"""One training step on a rank's share of a global batch: discriminator, then generator, on the same fakes.

The generator does not change while the discriminator learns, so both learn from one drawing of the fakes. Where the
share is accumulated in parts, the drawing is repeated instead of kept, with the same noise and the same embedding: the
numbers are those of one part, and so is the memory.
"""

from __future__ import annotations

import torch

from t2f_dist.data.batch import Batch
from t2f_dist.models.networks import begin_step
from t2f_dist.training.gan import Gan
from t2f_dist.training.growth import Phase
from t2f_dist.training.part import Part
from t2f_dist.training.terms import Metrics, discriminator_terms, generator_terms
from t2f_dist.training.turns import generator_learns


def train_step(gan: Gan, batch: Batch, phase: Phase, images_seen: int, num_parts: int) -> Metrics:
    """Both networks learn from a batch. Returns each loss term and gradient norm: scalar tensors on the device.

    All ranks call it with their shares of the same global batch.
    """
    gan.enter(phase)  # the loop has, before it counts the time of the step; then this does nothing
    begin_step(gan.networks)
    batch = batch.to(gan.device, gan.precision.weights)
    parts = [Part(gan, part, phase) for part in batch.split(num_parts)]
    metrics: Metrics = {}
    generator_too = generator_learns(gan.config.turns, phase.step)
    _discriminator_step(gan, parts, phase, images_seen, metrics, keep_graph=generator_too and num_parts == 1)
    gan.update_statistics()  # of one drawing each; what the generator's step draws again is not counted
    if generator_too:
        _generator_step(gan, parts, phase, metrics)
    _follow(gan, parts, phase, images_seen, metrics)
    gan.suspects = {name: torch.cat([part.suspects[name] for part in parts]) for name in parts[0].suspects}
    return metrics


def _discriminator_step(
    gan: Gan, parts: list[Part], phase: Phase, images_seen: int, metrics: Metrics, keep_graph: bool
) -> None:
    """keep_graph: the generator's step, which follows, goes through the same drawing."""
    side = gan.discriminator_side
    both = "condition" in gan.config.needs_mismatched
    for number, part in enumerate(parts):
        batch = part.batch
        with side.accumulating(last=number == len(parts) - 1):
            if gan.networks.encoder_trained_by == "discriminator":
                if both:
                    embedding, mismatched = side.compute(part.encode_both)
                else:
                    embedding = mismatched = side.compute(part.encode, batch.condition)
                part.embedding = embedding.detach()
            else:
                with torch.set_grad_enabled(keep_graph):
                    part.embedding = gan.generator_side.compute(part.encode, batch.condition)
                embedding = mismatched = part.embedding.detach()
                if both:
                    with torch.no_grad():
                        mismatched = part.encode(batch.mismatched)
            part.mismatched = mismatched.detach()
            with torch.set_grad_enabled(keep_graph):
                part.drawing = gan.generator_side.compute(part.draw, part.embedding)
            terms = side.compute(discriminator_terms, gan, part, embedding, mismatched, images_seen)
            side.backward(terms.loss / len(parts))
        if len(parts) > 1:
            part.drawing = None
        _add(metrics, terms.values, len(parts))
    metrics.update(side.step(phase.learning_rate_factor))


def _generator_step(gan: Gan, parts: list[Part], phase: Phase, metrics: Metrics) -> None:
    side = gan.generator_side
    with gan.discriminator_side.frozen():
        for number, part in enumerate(parts):
            with side.accumulating(last=number == len(parts) - 1):
                if len(parts) > 1:  # again, now with a graph
                    if gan.networks.encoder_trained_by == "generator":
                        part.embedding = side.compute(part.encode, part.batch.condition)
                    part.drawing = side.compute(part.draw, part.embedding)
                if gan.config.loss.matching.interpolation_weight:
                    other = torch.where(part.opposed[:, None], part.mismatched, part.embedding)
                    part.half_way = torch.lerp(part.embedding, other, 0.5)  # beta in 1605.05396, section 4.3
                    part.between = side.compute(part.draw, part.half_way)
                terms = generator_terms(gan, part)
                side.backward(terms.loss / len(parts))
            part.drawing = part.between = None
            _add(metrics, terms.values, len(parts))
    metrics.update(side.step(phase.learning_rate_factor))


def _follow(gan: Gan, parts: list[Part], phase: Phase, images_seen: int, metrics: Metrics) -> None:
    """What goes along with the weights, from the global batch: queue, augmentation. Nothing, where that was bad."""
    bad = gan.discriminator_side.bad
    if gan.networks.queue is not None:
        vectors = gan.gathered(torch.cat([part.condition_vectors for part in parts]))
        identities = gan.gathered(torch.cat([part.batch.identities for part in parts]))
        present = gan.gathered(torch.cat([part.present for part in parts]).byte()).bool()
        gan.networks.queue.push(vectors, identities, present, bad)
    if gan.ada is not None:
        signs = gan.summed(torch.stack([part.sign_sum for part in parts]).sum())
        gan.ada.see(signs, phase.batch_size, images_seen, bad)
        metrics["augment/real_sign"] = signs / phase.batch_size  # what the target is compared with
        metrics["augment/probability"] = gan.ada.probability.clone()


def _add(metrics: Metrics, terms: Metrics, num_parts: int) -> None:
    for name, term in terms.items():
        metrics[name] = metrics[name] + term / num_parts if name in metrics else term / num_parts
