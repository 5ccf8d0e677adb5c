"""Optimizers and learning-rate schedules, as recipes state them."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from quickstudy.core.arguments import check_whole

Schedule = Callable[[int], float]
"""Function from the number of a step, starting at 0, to a factor of the learning rate.

It holds no state, so training resumes exactly. In your own loop, turn it into a torch scheduler by
`torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)`; any function that LambdaLR takes is a schedule.
"""
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Function from parameters to an optimizer of them."""


def halve_every(steps: int) -> Schedule:
    """Step schedule that halves the learning rate at regular intervals: the factor ½^⌊step / steps⌋.

    Args:
        steps: Number of steps between halvings, at least 1.

    Raises:
        ValueError: If it is no such number.

    Reference: Snell et al. 2017, "Prototypical networks for few-shot learning".
    """
    check_whole(1, steps=steps)
    return lambda step: 0.5 ** (step // steps)


def cosine_schedule(steps: int, warmup: int = 0, floor: float = 0.0) -> Schedule:
    """Cosine schedule: the factor rises linearly to 1 in the warm-up, then falls along a half cosine.

    Args:
        steps: Number of steps, warm-up included.
        warmup: Number of warm-up steps, of which at most `steps` // 2 are made.
        floor: Factor that it falls to, such as 0.01 for a rate of 1e-3 that falls to 1e-5.

    Raises:
        ValueError: If the floor is not in [0, 1].
    """
    check_whole(1, steps=steps)
    check_whole(0, warmup=warmup)
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is {floor}: it is a factor of the learning rate, from 0 to 1")
    warmup = min(warmup, steps // 2)

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        height = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
        return floor + (1 - floor) * height if floor else height

    return at


def linear_decay(steps: int) -> Schedule:
    """Linear schedule: the factor falls from 1 to 0, as for Reptile's outer step.

    Args:
        steps: Number of steps until 0.
    """
    check_whole(1, steps=steps)
    return lambda step: 1 - step / steps


def restarted(steps: int) -> Schedule:
    """Two cosine schedules with warm-up: over the first two thirds, then at half the height over the rest.

    Args:
        steps: Number of steps of both together.
    """
    check_whole(2, steps=steps)
    first = steps * 2 // 3
    one, two = cosine_schedule(first, warmup=100), cosine_schedule(steps - first, warmup=100)
    return lambda step: one(step) if step < first else 0.5 * two(step - first)
