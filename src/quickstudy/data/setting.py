"""Setting, BatchSize and LabelFraction: the size of a task or a batch, and which items are labelled."""

from dataclasses import asdict, dataclass, replace

import numpy as np

from quickstudy.core.arguments import checked_class
from quickstudy.core.arrays import IntArray


@checked_class
@dataclass(frozen=True)
class Setting:
    """The size of a task: `Setting(5, 1)` is "5-way 1-shot", 5w1s for short.

    Args:
        ways: Number of classes in a task, N ≥ 2.
        shots: Number of support items of each class, at least 1.
        queries: Number of query items of each class, at least 1.
        unlabelled: Number of unlabelled items of each class.
        distractors: Number of further classes that contribute `unlabelled` items each, but neither support
            nor query items.
        most_shots: Largest number of shots, if these are drawn anew for each meta-batch, from `shots` to it
            with equal probability; the others of the shots + queries items of each class are then the
            queries. None if all tasks have as many shots.

    Raises:
        ValueError: If a number is out of range, or there are distractors without unlabelled items.
    """

    ways: int
    shots: int
    queries: int = 15
    unlabelled: int = 0
    distractors: int = 0
    most_shots: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1), ("unlabelled", 0), ("distractors", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if self.distractors and not self.unlabelled:
            raise ValueError(
                f"{self.distractors} distractors without unlabelled items: say how many of each class"
            )
        if self.most_shots is not None and not self.shots < self.most_shots < self.shots + self.queries:
            raise ValueError(
                f"most_shots is {self.most_shots}: it must be above the {self.shots} shots and leave "
                f"a query of the {self.shots + self.queries} items of each class"
            )

    def __str__(self) -> str:
        """Short name of the task, such as `5w1s` for 5-way 1-shot; `20w1-9s` if shots are drawn."""
        drawn = "" if self.most_shots is None else f"-{self.most_shots}"
        return f"{self.ways}w{self.shots}{drawn}s"

    @property
    def items(self) -> int:
        """Number of items of each class that a task needs."""
        return self.shots + self.queries + self.unlabelled

    def of_one(self, rng: np.random.Generator) -> "Setting":
        """The size of the tasks of one meta-batch, with shots that are drawn, if they are to be."""
        if self.most_shots is None:
            return self
        shots = int(rng.integers(self.shots, self.most_shots + 1))
        return replace(self, shots=shots, queries=self.shots + self.queries - shots, most_shots=None)

    def as_dict(self) -> dict[str, int]:
        """JSON-serializable description for a manifest, from which `Setting(**…)` makes an equal one."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@checked_class
@dataclass(frozen=True)
class BatchSize:
    """The size of a batch of ordinary classification, which knows no tasks.

    Args:
        batch_size: Number of items in a batch, at least 1.

    Raises:
        ValueError: If the number is too small.
    """

    batch_size: int

    def __post_init__(self) -> None:
        """Check the argument."""
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}: it must be at least 1")


@checked_class
@dataclass(frozen=True)
class LabelFraction:
    """A random choice of the labelled items of each class, for semi-supervised episodes; it never changes.

    Support and query items are drawn from the labelled items, unlabelled items from the others.

    Args:
        fraction: Fraction of the items of each class that are labelled, rounded up, in (0, 1).
        seed: Seed of the random choice, at least 0.

    Raises:
        ValueError: If the fraction or the seed is out of range.

    Reference: Ren et al. 2018, where a tenth of Omniglot is labelled.
    """

    fraction: float
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 0 < self.fraction < 1 or self.seed < 0:
            raise ValueError(
                f"fraction is {self.fraction} and seed {self.seed}: "
                "the fraction must lie between 0 and 1, the seed be at least 0"
            )

    def order(self, counts: IntArray) -> tuple[IntArray, IntArray]:
        """Shuffle the items of each class, the labelled ones first.

        Args:
            counts: [K] number of items of each class.

        Returns:
            Positions [Σ counts] of the items within their class, class after class, and the number [K] of
            labelled items of each class.
        """
        rng = np.random.default_rng(self.seed)
        of_class = np.repeat(np.arange(len(counts)), counts)
        shuffled = np.lexsort((rng.random(len(of_class)), of_class))
        exact = np.round(self.fraction * counts, 9)  # 0.07 · 100 is 7, not 7.000000000000001
        labelled = np.ceil(exact).astype(np.int64)
        return shuffled - np.repeat(np.cumsum(counts) - counts, counts), labelled
