"""Scores, such as accuracy, each with its 95 % confidence interval."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class ValidationResult(Protocol):
    """Result of a validation: a `Score`, or any class with these methods."""

    @property
    def objective(self) -> float:
        """Number by which the best weights are selected; higher is better."""
        ...

    def __str__(self) -> str:
        """Full text of the result, with its conditions."""
        ...

    @property
    def short(self) -> str:
        """Short text of the result, for a progress bar."""
        ...

    def to_log(self) -> dict[str, float]:
        """Numbers for a line of the training log, by name."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """All fields by name, for the manifest of a checkpoint."""
        ...


@dataclass(frozen=True)
class Score:
    """Mean accuracy over episodes, with all that is needed to reproduce it.

    Args:
        accuracy: Mean accuracy over the episodes, in [0, 1].
        ci95: Half-width of the 95 % confidence interval of the accuracy, as in `mean_ci95`.
        episodes: Number of episodes (tasks).
        seed: Seed of the random draws of the episodes.
        setting: Setting of the episodes, such as 5w1s (5-way 1-shot).
        mode: Input of batch norm: "inductive" (each query by itself), "transductive" (a task together), or
            "authors" (a task together, with one query a class).
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
    def objective(self) -> float:
        """Number by which the best weights are selected: the accuracy."""
        return self.accuracy

    @property
    def short(self) -> str:
        """`97.9 % 5w1s`."""
        return f"{100 * self.accuracy:.1f} % {self.setting}"

    def to_log(self) -> dict[str, float]:
        """Numbers for a line of the training log, by name."""
        return {"validation": self.accuracy, "ci95": self.ci95}

    def as_dict(self) -> dict[str, Any]:
        """All fields by name, for the manifest of a checkpoint."""
        return dict(vars(self))


@dataclass(frozen=True)
class FinalLoss:
    """Losses that an update rule reaches on test problems, with all that is needed to reproduce them.

    Args:
        mean: Mean of the losses after the last step.
        ci95: Half-width of the 95 % confidence interval of the mean.
        median: Median of the losses after the last step.
        problems: Number of problems.
        seed: Seed of the random draws of the problems.
        family: Name of the family of problems, such as digits.
        steps: Number of steps taken on each problem.
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
        """Mean, median and confidence interval of final losses.

        For several kinds of problems, with losses of different magnitudes, mean and median are the geometric
        means of those of the kinds: halving the loss counts the same on every kind.

        Args:
            losses: [n] losses after the last step, or [kinds, n] for several kinds of problems.
            seed: Seed of the random draws of the problems.
            family: Name of the family of problems.
            steps: Number of steps taken on each problem.
        """
        kinds = losses.reshape(-1, losses.shape[-1])
        means, cis = zip(*map(mean_ci95, kinds), strict=True)
        mean = math.prod(means) ** (1 / len(kinds))
        median = math.prod(kinds.median(1).values.tolist()) ** (1 / len(kinds))
        relative = math.hypot(*(ci / m if m else 0.0 for m, ci in zip(means, cis, strict=True)))
        return cls(mean, mean * relative / len(kinds), median, losses.numel(), seed, family, steps)

    def __str__(self) -> str:
        """`0.0502 ± 0.0031, median 0.0480 (digits, step 100, 64 problems, seed 0)`."""
        return (
            f"{self.mean:.4g} ± {self.ci95:.2g}, median {self.median:.4g} "
            f"({self.family}, step {self.steps}, {self.problems} problems, seed {self.seed})"
        )

    @property
    def objective(self) -> float:
        """Number by which the best weights are selected: the negative mean loss."""
        return -self.mean

    @property
    def short(self) -> str:
        """`0.0502 at step 100`."""
        return f"{self.mean:.4g} at step {self.steps}"

    def to_log(self) -> dict[str, float]:
        """Numbers for a line of the training log, by name."""
        return {"validation": self.mean, "ci95": self.ci95, "median": self.median}

    def as_dict(self) -> dict[str, Any]:
        """All fields by name, for the manifest of a checkpoint."""
        return dict(vars(self))


def percent(mean: float, ci95: float) -> str:
    """Mean and interval as text in percent: `97.91 ± 0.28` for 0.9791 and 0.0028.

    Args:
        mean: Mean as a fraction in [0, 1].
        ci95: Half-width of the confidence interval, as a fraction in [0, 1].
    """
    return f"{100 * mean:.2f} ± {100 * ci95:.2f}"


def accuracies(scores: Tensor, y: Tensor) -> Tensor:
    """Accuracy of each task: the fraction of queries for which the true class has strictly the highest score.

    A tie counts as an error: a model that gives every class the same score gets nothing right.

    Args:
        scores: [T, Q, N] scores of the queries.
        y: [T, Q] int64 true labels of the queries in 0 … N − 1.

    Returns:
        [T] accuracies in [0, 1].
    """
    own = scores.gather(-1, y.unsqueeze(-1))
    others = scores.scatter(-1, y.unsqueeze(-1), -math.inf)
    return (own > others.amax(-1, keepdim=True)).squeeze(-1).float().mean(-1)


def mean_ci95(values: Tensor) -> tuple[float, float]:
    r"""Mean of independent values, and half-width of its 95 % confidence interval.

    $$t_{n-1,\,0.975}\,\frac{s}{\sqrt n}$$

    with the sample standard deviation s and Student's t: 1.96 for a thousand values, 2.26 for ten, 4.30 for
    three.

    Args:
        values: [n] independent values.

    Returns:
        Mean, and half-width of the interval; NaN for the half-width of a single value.
    """
    from scipy.special import stdtrit  # imported here because it is slow to load

    n = len(values)
    if n < 2:
        return values.double().mean().item(), math.nan
    half = float(stdtrit(n - 1, 0.975)) * torch.std(values.double()).item() / math.sqrt(n)
    return values.double().mean().item(), half
