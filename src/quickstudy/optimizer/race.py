"""Races: comparisons of update rules on problems that none of them has seen."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quickstudy.core.adapt import Rule, Tensors, adapt
from quickstudy.core.progress import ProgressCallback
from quickstudy.core.update_rules import adam, heavy_ball, nag, rmsprop, sgd
from quickstudy.optimizer.problems.problem import ProblemBatch, ProblemFamily

RATES = tuple(10 ** (-3 + i / 6) for i in range(28))
"""Grid of learning rates that the baselines are tuned over: six a decade, from 1e-3 to 32."""
TUNED_BEFORE = 2**30
"""Offset from the seed of a race to the seed of the problems that the baselines are tuned on."""


def adamw_cosine(steps: int) -> Callable[[float], Rule]:
    """AdamW with weight decay 0.01; the learning rate falls along a half cosine to 0.

    Args:
        steps: Number of steps until the rate is 0.

    Returns:
        A function from the initial learning rate to the rule.
    """

    def half_cosine(step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))

    return lambda lr: adam(lr, weight_decay=0.01, schedule=half_cosine)


def baselines(steps: int) -> dict[str, Callable[[float], Rule]]:
    """The optimizers designed by hand that learned rules are compared with.

    Args:
        steps: Number of steps of the race, over which scheduled learning rates fall.

    Returns:
        A function from a learning rate to the rule, by name of the optimizer.
    """
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
    """Losses of B problems under one rule, and the time it took.

    Args:
        name: Name of the rule.
        losses: [steps + 1, B] losses f(θ_t) of each problem, before the first step and after each.
        held_out: [steps + 1, B] losses on held-out data; empty if they were not computed.
        seconds: Seconds of a step of all B problems, gradients included.
        own_seconds: Seconds of a step that the rule itself takes.
        lr: The tuned learning rate; None for a learned rule.
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
        """Losses on one of the two kinds of data.

        Args:
            held_out: Return the losses on held-out data instead of those on the training data.

        Returns:
            [steps + 1, B] losses.
        """
        return self.held_out if held_out else self.losses


def unroll(
    rule: Rule,
    problems: ProblemBatch,
    steps: int,
    name: str = "",
    held_out: bool = False,
    lr: float | None = None,
) -> Curve:
    """Run a rule on a batch of problems.

    Args:
        rule: The update rule.
        problems: B problems.
        steps: Number of steps, at least 1.
        name: Name of the curve.
        held_out: Compute the losses on held-out data too.
        lr: Learning rate to note in the curve.

    Returns:
        The losses by step, and the time. A loss that is not finite is given as infinite.
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
    """A rule that measures the time its steps take."""

    def __init__(self, rule: Rule) -> None:
        self.init, self.rule, self.seconds = rule.init, rule, 0.0

    def update(self, *arguments: Any) -> Any:
        """Take a step, as `Rule.update`."""
        started = time.perf_counter()
        after = self.rule.update(*arguments)
        self.seconds += time.perf_counter() - started
        return after


def tune(
    make: Callable[[float], Rule], problems: ProblemBatch, steps: int, rates: Sequence[float] = RATES
) -> float:
    """The learning rate with the least mean loss after the last step; the first rate if all diverge.

    Args:
        make: Function from a learning rate to a rule.
        problems: Problems to tune on.
        steps: Number of steps, at least 1.
        rates: Learning rates to try.

    Returns:
        The best of the rates.
    """
    finals = [unroll(make(lr), problems, steps).final.mean().item() for lr in rates]
    return rates[finals.index(min(finals))]


def race(
    rules: Mapping[str, Rule],
    family: ProblemFamily,
    steps: int,
    problems: int = 64,
    seed: int = 0,
    *,
    held_out: bool = False,
    tuning: int | None = None,
    against: Mapping[str, Callable[[float], Rule]] | None = None,
    rates: Sequence[float] = RATES,
    report: ProgressCallback | None = None,
) -> list[Curve]:
    """Compare learned rules with tuned baselines on the same problems.

    Args:
        rules: Learned rules, by name.
        family: Family that the problems are drawn from.
        steps: Number of steps, at least 1.
        problems: B, the number of problems, at least 1.
        seed: Seed of the problems.
        held_out: Compute the losses on held-out data too.
        tuning: Number of other problems that the baselines' learning rates are tuned on, for the training
            loss; B by default.
        against: Baselines, as functions from a learning rate to a rule, by name; those of `baselines` by
            default.
        rates: Learning rates that the baselines are tuned over.
        report: Called after each curve with the numbers of finished curves and of all curves.

    Returns:
        A curve for each rule, learned rules first.

    Raises:
        ValueError: If `steps` or `problems` is less than 1.
    """
    if steps < 1 or problems < 1:
        raise ValueError(f"steps is {steps} and problems {problems}: both must be at least 1")
    against = baselines(steps) if against is None else against
    before, ours = family.sample(tuning or problems, seed + TUNED_BEFORE), family.sample(problems, seed)
    entries: list[Callable[[], Curve]] = [
        partial(unroll, rule, ours, steps, name, held_out) for name, rule in rules.items()
    ]

    def tuned(name: str, make: Callable[[float], Rule]) -> Curve:
        lr = tune(make, before, steps, rates)
        return unroll(make(lr), ours, steps, name, held_out, lr)

    entries += [partial(tuned, name, make) for name, make in against.items()]
    curves: list[Curve] = []
    for entry in entries:
        curves.append(entry())
        if report:
            report(len(curves), len(entries))
    return curves
