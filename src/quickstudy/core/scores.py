"""Scores, such as accuracy, each with its 95 % confidence interval."""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
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
class Comparison:
    """Difference of two accuracies on the same tasks, by the paired t test.

    Args:
        difference: Mean of the differences, task by task, in [−1, 1].
        ci95: Half-width of the 95 % confidence interval of the mean, over draws of tasks of the same classes.
        p: Probability of a difference as large or larger, either way, if there is none.
        tasks: Number of tasks.
    """

    difference: float
    ci95: float
    p: float
    tasks: int

    def __str__(self) -> str:
        """`+1.23 ± 0.45 % over draws, p = 0.0004 (1000 tasks, paired)`."""
        mean, half = 100 * self.difference, 100 * self.ci95
        p = f"p = {self.p:.2g}" if self.p >= 1e-4 else "p < 0.0001"
        return f"{mean:+.2f} ± {half:.2f} % over draws, {p} ({self.tasks} tasks, paired)"


@dataclass(frozen=True)
class Score:
    """Mean accuracy over episodes, with all that is needed to reproduce it.

    It has two intervals. That over draws says what other tasks of the same data would give: it shrinks with
    the number of tasks, however few the classes and items. That over classes and items says how far the
    accuracy would move with others of the same kind.

    Args:
        accuracy: Mean accuracy over the episodes, in [0, 1].
        ci95: Half-width of the 95 % confidence interval over draws of tasks, as in `mean_ci95`.
        episodes: Number of episodes (tasks).
        seed: Seed of the random draws of the episodes.
        setting: Setting of the episodes, such as 5w1s (5-way 1-shot).
        mode: Input of batch norm: "inductive" (each query by itself), "transductive" (a task together), or
            "authors" (a task together, with one query a class).
        pool: Name of the data set and, after a dot, of the split; empty if unknown.
        data95: 95 % interval over classes and items, as in `data_interval`; None if unknown.
        tasks: Digest of all that the tasks depend on; empty if unknown.
        accuracies: Accuracy of each task, in [0, 1].
    """

    accuracy: float
    ci95: float
    episodes: int
    seed: int
    setting: str
    mode: str
    pool: str = ""
    data95: tuple[float, float] | None = None
    tasks: str = field(default="", repr=False)
    accuracies: tuple[float, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        """`97.91 ± 0.28 % over draws, 96.1 … 98.9 over classes and items (5w1s of glyphs.test, …)`."""
        over = f", {data_percent(self.data95)} over classes and items" if self.data95 else ""
        of = f" of {self.pool}" if self.pool else ""
        return (
            f"{percent(self.accuracy, self.ci95)} % over draws{over} "
            f"({self.setting}{of}, {self.mode}, {self.episodes} episodes, seed {self.seed})"
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
        """All fields by name but the accuracies of single tasks, for the manifest of a checkpoint."""
        return {k: v for k, v in vars(self).items() if k != "accuracies"}

    def compare(self, other: "Score") -> Comparison:
        """Compare two accuracies on the same tasks: this one's minus the other's.

        The interval and p are over draws of tasks. Of one training each they say nothing about other seeds.

        Args:
            other: Score of another learner, or of another mode, on the same tasks.

        Returns:
            Mean difference, its 95 % interval and p, by the paired t test.

        Raises:
            ValueError: If the tasks are not the same, or there are fewer than two.
        """
        from scipy.special import stdtr  # imported here because it is slow to load

        for name in ("setting", "pool", "seed", "episodes", "tasks"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                what = "other items or draws" if name == "tasks" else f"{name} {mine!r} and {its!r}"
                raise ValueError(
                    f"these scores are of different tasks ({what}): evaluate both on the same episodes"
                )
        if len(self.accuracies) < 2 or len(self.accuracies) != len(other.accuracies):
            raise ValueError(
                f"they know the accuracies of {len(self.accuracies)} and {len(other.accuracies)} tasks: "
                "take those that evaluate returns, of two tasks or more"
            )
        if not self.tasks:
            raise ValueError("this score doesn't say which tasks it is of: evaluate with comparable=True")
        differences = torch.tensor(self.accuracies).double() - torch.tensor(other.accuracies).double()
        n, mean, spread = len(differences), differences.mean().item(), differences.std().item()
        half = mean_ci95(differences)[1]
        if spread == 0:
            return Comparison(mean, half, float(mean == 0), n)
        return Comparison(mean, half, 2 * float(stdtr(n - 1, -abs(mean) / spread * math.sqrt(n))), n)


@dataclass(frozen=True)
class ErrorScore:
    """Mean squared error of regressions over episodes, with all that is needed to reproduce it.

    Lower is better.

    Args:
        error: Mean over the tasks of the mean squared error of a task's queries, in squared units of the
            values.
        ci95: Half-width of the 95 % confidence interval over draws of tasks, as in `mean_ci95`.
        episodes: Number of episodes (tasks).
        seed: Seed of the random draws of the episodes.
        setting: Label of the episodes, such as "10 points".
        mode: Input of batch norm, as in `Score`.
        tasks: Digest of all that the tasks depend on; empty if unknown.
        errors: Mean squared error of each task.
    """

    error: float
    ci95: float
    episodes: int
    seed: int
    setting: str
    mode: str
    tasks: str = field(default="", repr=False)
    errors: tuple[float, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        """`mean squared error 0.512 ± 0.031 over draws (10 points, inductive, 600 episodes, seed 0)`."""
        return (
            f"mean squared error {self.error:.4g} ± {self.ci95:.2g} over draws "
            f"({self.setting}, {self.mode}, {self.episodes} episodes, seed {self.seed})"
        )

    @property
    def objective(self) -> float:
        """Number by which the best weights are selected: the negative error."""
        return -self.error

    @property
    def short(self) -> str:
        """`error 0.512 10 points`."""
        return f"error {self.error:.4g} {self.setting}"

    def to_log(self) -> dict[str, float]:
        """Numbers for a line of the training log, by name."""
        return {"validation": self.error, "ci95": self.ci95}

    def as_dict(self) -> dict[str, Any]:
        """All fields by name but the errors of single tasks, for the manifest of a checkpoint."""
        return {k: v for k, v in vars(self).items() if k != "errors"}


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


def data_percent(interval: tuple[float, float]) -> str:
    """An interval of a share as text in percent: `96.1 … 98.9`.

    Args:
        interval: Lower and upper end, in [0, 1].
    """
    return f"{100 * interval[0]:.1f} … {100 * interval[1]:.1f}"


def data_interval(right: Tensor, items: Tensor, classes: Tensor, seed: int = 0) -> tuple[float, float]:
    """95 % interval of an accuracy over classes and items, by the bootstrap.

    Each resample gives each class, and each item, an exponential weight; a query counts by the product of the
    two of its own (Bayesian bootstrap with two levels, which is on the safe side). Supports and rivals are as
    they were drawn: their chance is averaged over the tasks. If all queries are right, or none, the interval
    reaches 3 / n from there, for n items.

    Args:
        right: [n] 1 for each query that was classified rightly, else 0.
        items: [n] index of the item of each query.
        classes: [n] index of the class of each query.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end, in [0, 1].

    Reference:
        Owen & Eckles, "Bootstrapping data arrays of arbitrary order", Annals of Applied Statistics, 2012.
    """
    found, at = items.unique(return_inverse=True)
    asked = torch.zeros(len(found)).index_add_(0, at, torch.ones(len(at)))
    hits = torch.zeros(len(found)).index_add_(0, at, right.float())
    share = hits.sum().item() / len(at)
    if share in (0, 1):
        margin = min(1.0, 3 / len(found))
        return (0.0, margin) if share == 0 else (1 - margin, 1.0)
    names, own = classes.unique(return_inverse=True)
    of = torch.zeros(len(found), dtype=torch.int64).scatter_(0, at, own)
    rng = np.random.default_rng(seed)  # four times as fast as torch's exponentials
    shares: list[Tensor] = []
    for _ in range(20):  # of 50 resamples each, for the sake of memory
        of_class, weights = (
            torch.from_numpy(rng.standard_exponential((50, len(x)), dtype=np.float32)) for x in (names, found)
        )
        weights *= of_class[:, of]
        shares.append(weights @ hits / (weights @ asked))
    low, high = torch.cat(shares).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def hits(scores: Tensor, y: Tensor) -> Tensor:
    """Which queries are classified rightly: those for which the true class has strictly the highest score.

    A tie counts as an error: a model that gives every class the same score gets nothing right.

    Args:
        scores: [T, Q, N] scores of the queries.
        y: [T, Q] int64 true labels of the queries in 0 … N − 1.

    Returns:
        [T, Q] booleans.
    """
    own = scores.gather(-1, y.unsqueeze(-1))
    others = scores.scatter(-1, y.unsqueeze(-1), -math.inf)
    return (own > others.amax(-1, keepdim=True)).squeeze(-1)


def accuracies(scores: Tensor, y: Tensor) -> Tensor:
    """Accuracy of each task: the fraction of queries that are classified rightly, as in `hits`.

    Args:
        scores: [T, Q, N] scores of the queries.
        y: [T, Q] int64 true labels of the queries in 0 … N − 1.

    Returns:
        [T] accuracies in [0, 1].
    """
    return hits(scores, y).float().mean(-1)


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
