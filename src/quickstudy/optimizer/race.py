"""Update rules against each other on problems that none of them has seen."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quickstudy.core.adapt import Rule, Tensors, adapt
from quickstudy.core.update_rules import adam, heavy_ball, nag, rmsprop, sgd
from quickstudy.optimizer.problems.problem import Family, Optimizees
from quickstudy.training.schedules import cosine

RATES = tuple(10 ** (-3 + i / 6) for i in range(28))
"""What the baselines' learning rates are tuned over: six a decade, from 1e-3 to 32."""
TUNED_BEFORE = 2**30
"""Added to a race's seed: the seed of the problems that baselines are tuned on."""


def adamw_cosine(steps: int) -> Callable[[float], Rule]:
    """AdamW with weight decay 0.01 whose rate falls along a half cosine to 0 over so many steps."""
    return lambda lr: adam(lr, weight_decay=0.01, schedule=cosine(steps))


def baselines(steps: int) -> dict[str, Callable[[float], Rule]]:
    """From a learning rate to a rule: what learned rules are raced against, for races of so many steps."""
    return {
        "SGD": sgd,
        "heavy ball": heavy_ball,
        "NAG": nag,
        "RMSprop": rmsprop,
        "Adam": adam,
        "AdamW, cosine": adamw_cosine(steps),
    }


@dataclass(frozen=True)
class Curve:
    """How a rule fared.

    Args:
        name: of the rule.
        losses: [steps + 1, B] f(θ_t) of each problem, before the first step and after each.
        held_out: [steps + 1, B] the same on data not trained on; empty where not asked for.
        seconds: of a step of all B problems, with their gradients.
        own_seconds: of these, the rule's own.
        lr: the tuned learning rate; none of a learned rule.
    """

    name: str
    losses: Tensor
    held_out: Tensor
    seconds: float
    own_seconds: float
    lr: float | None = None

    @property
    def final(self) -> Tensor:
        """[B] losses after the last step."""
        return self.losses[-1]

    def judged(self, held_out: bool) -> Tensor:
        """[steps + 1, B] the losses that count: on the data trained on, or on the others."""
        return self.held_out if held_out else self.losses


def follow(
    rule: Rule,
    problems: Optimizees,
    steps: int,
    name: str = "",
    held_out: bool = False,
    lr: float | None = None,
) -> Curve:
    """Take some steps of a rule on some problems.

    Args:
        rule: any.
        problems: B of them.
        steps: how many.
        name: of the curve.
        held_out: take the held-out losses too.
        lr: for the curve.

    Returns:
        The curve. A problem whose loss is not finite counts as infinite.
    """
    others: list[Tensor] = []
    timed, watching = _Timed(rule), 0.0

    def watch(k: int, parameters: Tensors, gradients: Tensors, loss: Tensor) -> None:
        nonlocal watching
        started = time.perf_counter()
        if held_out:
            others.append(problems.held_out(parameters, k))
        watching += time.perf_counter() - started

    with torch.no_grad():
        started = time.perf_counter()
        adapted = adapt(problems.loss, problems.start, timed, steps, True, watch=watch)
        seconds = time.perf_counter() - started - watching
        losses = torch.cat([adapted.losses, problems.loss(adapted.parameters, steps).unsqueeze(0)])
        watch(steps, adapted.parameters, {}, losses[-1])
    losses = losses.nan_to_num(math.inf, math.inf)
    tested = torch.stack(others) if others else losses[:0]
    return Curve(name, losses, tested, seconds / steps, timed.seconds / steps, lr)


class _Timed:
    """A rule that keeps count of the time its steps take."""

    def __init__(self, rule: Rule) -> None:
        self.init, self.rule, self.seconds = rule.init, rule, 0.0

    def update(self, *arguments: Any) -> Any:
        """A step."""
        started = time.perf_counter()
        after = self.rule.update(*arguments)
        self.seconds += time.perf_counter() - started
        return after


def tune(
    make: Callable[[float], Rule], problems: Optimizees, steps: int, rates: Sequence[float] = RATES
) -> float:
    """The learning rate with the least mean loss after some steps; the least rate if all of them diverge."""
    finals = [follow(make(lr), problems, steps).final.mean().item() for lr in rates]
    return rates[finals.index(min(finals))]


def race(
    rules: Mapping[str, Rule],
    family: Family,
    steps: int,
    problems: int = 64,
    seed: int = 0,
    *,
    held_out: bool = False,
    tuning: int | None = None,
    against: Mapping[str, Callable[[float], Rule]] | None = None,
    rates: Sequence[float] = RATES,
    report: Callable[[int, int], None] | None = None,
) -> list[Curve]:
    """Learned rules against tuned baselines on the same problems.

    Args:
        rules: the learned ones, by name.
        family: of the problems.
        steps: how many.
        problems: B.
        seed: of the problems.
        held_out: take the held-out losses too.
        tuning: on how many other problems the baselines' learning rates are tuned, for the loss that falls
            under their gradients; B by default.
        against: the baselines; those of `baselines` by default.
        rates: that they are tuned over.
        report: told of curves done and of their number.

    Returns:
        A curve a rule, learned ones first.

    Raises:
        ValueError: if `steps` or `problems` is less than 1.
    """
    if steps < 1 or problems < 1:
        raise ValueError(f"steps is {steps} and problems {problems}: both must be at least 1")
    against = baselines(steps) if against is None else against
    before, ours = family.sample(tuning or problems, seed + TUNED_BEFORE), family.sample(problems, seed)
    entries: list[Callable[[], Curve]] = [
        partial(follow, rule, ours, steps, name, held_out) for name, rule in rules.items()
    ]

    def tuned(name: str, make: Callable[[float], Rule]) -> Curve:
        lr = tune(make, before, steps, rates)
        return follow(make(lr), ours, steps, name, held_out, lr)

    entries += [partial(tuned, name, make) for name, make in against.items()]
    curves: list[Curve] = []
    for entry in entries:
        curves.append(entry())
        if report:
            report(len(curves), len(entries))
    return curves
