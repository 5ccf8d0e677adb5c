"""Setting and Labels: the sizes of a task, and how few items bear labels."""

from dataclasses import dataclass

import numpy as np

from quickstudy.data.pool import Index


@dataclass(frozen=True)
class Setting:
    """The size of a task: `Setting(5, 1)` is "5-way 1-shot", 5w1s for short.

    Args:
        ways: N, classes.
        shots: support items a class.
        queries: query items a class.
        unlabelled: unlabelled items a class.
        distractors: further classes, none of whose items is labelled or asked for: they are among the
            unlabelled items, as many of each as of the others.
    """

    ways: int
    shots: int
    queries: int = 15
    unlabelled: int = 0
    distractors: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1), ("unlabelled", 0), ("distractors", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if self.distractors and not self.unlabelled:
            raise ValueError(
                f"{self.distractors} distractors without unlabelled items: say how many of each class"
            )

    def __str__(self) -> str:
        """`5w1s`."""
        return f"{self.ways}w{self.shots}s"

    @property
    def items(self) -> int:
        """Items of each class that a task needs."""
        return self.shots + self.queries + self.unlabelled


@dataclass(frozen=True)
class Labels:
    """Which items bear labels, where not all do: of each class some, drawn once and for all.

    Support and queries are drawn from these, unlabelled items from the others.

    Args:
        fraction: of the items of each class, rounded up, in 0 … 1 without the ends.
        seed: of the draw.

    Reference: Ren et al. 2018, where a tenth of Omniglot bears labels.
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

    def order(self, counts: Index) -> tuple[Index, Index]:
        """The items of each class shuffled, those with labels first, and how many have them.

        Args:
            counts: [K] items of each class.

        Returns:
            Places [Σ counts] in the class, class after class, and [K] numbers of items with labels.
        """
        rng = np.random.default_rng(self.seed)
        of_class = np.repeat(np.arange(len(counts)), counts)
        shuffled = np.lexsort((rng.random(len(of_class)), of_class))
        exact = np.round(self.fraction * counts, 9)  # 0.07 · 100 is 7, not 7.000000000000001
        labelled = np.ceil(exact).astype(np.int64)
        return shuffled - np.repeat(np.cumsum(counts) - counts, counts), labelled
