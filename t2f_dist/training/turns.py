"""Whose turn it is: in which steps the generator learns too, as a function of the number of the step."""

from __future__ import annotations

from bisect import bisect_left

from t2f_dist.config.schema import Turns


def generator_learns(turns: Turns, step: int) -> bool:
    """Whether the generator learns in a step (0 is the first). The discriminator learns in every one.

    Of the generator's steps, those of a warm-up come after `warm_up_discriminator_steps` of the discriminator, the
    others after `discriminator_steps` (the schedule of the code that was published with 1701.07875).
    """
    number = bisect_left(range(step + 1), step + 1, key=lambda g: num_steps(turns, g + 1))
    return number <= step and num_steps(turns, number + 1) == step + 1


def num_steps(turns: Turns, generator_steps: int) -> int:
    """Steps after which the generator has learnt so many times."""
    first, every = turns.warm_up_generator_steps, turns.warm_up_every_generator_steps
    warm_up = min(generator_steps, first)
    if every and generator_steps > first:
        warm_up += -(-generator_steps // every) - -(-first // every)
    more = turns.warm_up_discriminator_steps - turns.discriminator_steps
    return generator_steps * turns.discriminator_steps + warm_up * more
