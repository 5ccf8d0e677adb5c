"""Optimizers and the courses of their learning rates, as recipes state them."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

Schedule = Callable[[int], float]
"""From the number of a step, the first being 0, to what its learning rate is multiplied by.

It holds no state, so that a training is resumed exactly. For a loop of one's own,
`torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)` makes a scheduler of torch of it; and any function
that LambdaLR takes is a schedule.
"""
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def halve_every(steps: int) -> Schedule:
    """The learning rate's multiplier ½^⌊step / steps⌋, as in the prototypical networks paper."""
    return lambda step: 0.5 ** (step // steps)


def cosine(steps: int, warmup: int = 0) -> Schedule:
    """A multiplier that rises linearly over `warmup` steps and then falls to 0 along a half cosine.

    Of a short training at most half is warm-up.
    """
    warmup = min(warmup, steps // 2)

    def at(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return at


def linear(steps: int) -> Schedule:
    """A multiplier that falls linearly from 1 to 0, as Reptile's outer step does."""
    return lambda step: 1 - step / steps


def restarted(steps: int) -> Schedule:
    """A cosine over two thirds of the steps, then another from half the height; both warmed up."""
    first = steps * 2 // 3
    one, two = cosine(first, warmup=100), cosine(steps - first, warmup=100)
    return lambda step: one(step) if step < first else 0.5 * two(step - first)


def adam(lr: float = 1e-3) -> MakeOptimizer:
    """Adam with the given learning rate."""
    return lambda parameters: torch.optim.Adam(parameters, lr)


def sgd(lr: float = 1.0) -> MakeOptimizer:
    """Plain gradient descent with the given learning rate."""
    return lambda parameters: torch.optim.SGD(parameters, lr)
