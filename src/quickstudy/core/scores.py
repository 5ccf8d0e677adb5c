"""Figures, each with its interval."""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Mode = Literal["inductive", "transductive"]
"""What batch norm sees in evaluation: each query by itself, or all of a task together."""


class Verdict(Protocol):
    """What a validation found: a `Score`, or your own."""

    @property
    def goodness(self) -> float:
        """By which weights are selected: higher is better."""
        ...

    def __str__(self) -> str:
        """In words."""
        ...

    @property
    def headline(self) -> str:
        """In few words, for a progress bar."""
        ...

    def logged(self) -> dict[str, float]:
        """For a line of the log."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        ...


@dataclass(frozen=True)
class Score:
    """Mean accuracy over episodes, with what is needed to repeat it.

    Args:
        accuracy: mean over episodes, in [0, 1].
        ci95: half-width of its 95 % interval, as in `mean_ci95`.
        episodes: n.
        seed: of the episodes.
        setting: such as 5w1s.
        mode: "inductive" or "transductive": what batch norm saw.
    """

    accuracy: float
    ci95: float
    episodes: int
    seed: int
    setting: str
    mode: str

    def __str__(self) -> str:
        """`97.91 ± 0.28 % (5w1s, inductive, 600 episodes, seed 0)`."""
        return (
            f"{percent(self.accuracy, self.ci95)} % "
            f"({self.setting}, {self.mode}, {self.episodes} episodes, seed {self.seed})"
        )

    @property
    def goodness(self) -> float:
        """By which weights are selected: the accuracy."""
        return self.accuracy

    @property
    def headline(self) -> str:
        """`97.9 % 5w1s`."""
        return f"{100 * self.accuracy:.1f} % {self.setting}"

    def logged(self) -> dict[str, float]:
        """For a line of the log."""
        return {"validation": self.accuracy, "ci95": self.ci95}

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return dict(vars(self))


@dataclass(frozen=True)
class FinalLoss:
    """How far optimisees come under an update rule, with what is needed to repeat it.

    Args:
        mean: of the losses after the last step.
        ci95: half-width of its 95 % interval.
        median: of the same.
        problems: n.
        seed: of the problems.
        family: they are of.
        steps: taken.
    """

    mean: float
    ci95: float
    median: float
    problems: int
    seed: int
    family: str
    steps: int

    @classmethod
    def of(cls, losses: Tensor, seed: int, family: str, steps: int) -> "FinalLoss":
        """The figures of the losses [n] of some problems.

        Of several kinds of problems, [kinds, n], whose losses are of different sizes, mean and median are the
        geometric means of the kinds' own: half the loss on one counts as much as on any other.
        """
        kinds = losses.reshape(-1, losses.shape[-1])
        means, cis = zip(*map(mean_ci95, kinds), strict=True)
        mean, median = (math.prod(v) ** (1 / len(kinds)) for v in (means, kinds.median(1).values.tolist()))
        relative = math.hypot(*(ci / m if m else 0.0 for m, ci in zip(means, cis, strict=True)))
        return cls(mean, mean * relative / len(kinds), median, losses.numel(), seed, family, steps)

    def __str__(self) -> str:
        """`0.0502 ± 0.0031, median 0.0480 (digits, step 100, 64 problems, seed 0)`."""
        return (
            f"{self.mean:.4g} ± {self.ci95:.2g}, median {self.median:.4g} "
            f"({self.family}, step {self.steps}, {self.problems} problems, seed {self.seed})"
        )

    @property
    def goodness(self) -> float:
        """By which weights are selected: the negative mean loss."""
        return -self.mean

    @property
    def headline(self) -> str:
        """`0.0502 at step 100`."""
        return f"{self.mean:.4g} at step {self.steps}"

    def logged(self) -> dict[str, float]:
        """For a line of the log."""
        return {"validation": self.mean, "ci95": self.ci95, "median": self.median}

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return dict(vars(self))


def percent(mean: float, ci95: float) -> str:
    """`97.91 ± 0.28` of 0.9791 and 0.0028."""
    return f"{100 * mean:.2f} ± {100 * ci95:.2f}"


def accuracies(scores: Tensor, y: Tensor) -> Tensor:
    """Share of queries whose own class scores strictly highest, per task.

    A tie is an error: a model that gives every class the same score gets nothing right.

    Args:
        scores: [T, Q, N].
        y: [T, Q] int64.

    Returns:
        [T] in [0, 1].
    """
    own = scores.gather(-1, y.unsqueeze(-1))
    others = scores.scatter(-1, y.unsqueeze(-1), -math.inf)
    return (own > others.amax(-1, keepdim=True)).squeeze(-1).float().mean(-1)


def mean_ci95(values: Tensor) -> tuple[float, float]:
    r"""Mean and half-width of its 95 % interval of independent values [n].

    $$t_{n-1,\,0.975}\,\frac{s}{\sqrt n}$$

    with Student's t: 1.96 for a thousand values, 2.26 for ten, 4.30 for three. NaN for a single one.
    """
    from scipy.special import stdtrit  # here, as it takes long to load

    n = len(values)
    if n < 2:
        return values.double().mean().item(), math.nan
    half = float(stdtrit(n - 1, 0.975)) * torch.std(values.double()).item() / math.sqrt(n)
    return values.double().mean().item(), half
