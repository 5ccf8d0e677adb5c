"""Setting, BatchSize and LabelFraction: the size of a task or a batch, and which items are labelled."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from quickstudy.core.arguments import checked_class, whole
from quickstudy.core.arrays import IntArray

Range = int | tuple[int, int]
"""A number, or the least and the largest of numbers that are drawn."""


@dataclass(frozen=True)
class Size:
    """The size of the tasks of one meta-batch: a `Setting` in which nothing is left to be drawn.

    Args:
        ways: Number of classes in a task, N.
        shots: Number of support items of each class.
        queries: Number of query items of each class.
        unlabelled: Number of unlabelled items of each class.
        distractors: Number of further classes with `unlabelled` items each.
    """

    ways: int
    shots: int
    queries: int
    unlabelled: int = 0
    distractors: int = 0

    def __str__(self) -> str:
        """Short name of the task, such as `5w1s`."""
        return f"{self.ways}w{self.shots}s"


@checked_class
@dataclass(frozen=True)
class Setting:
    """The size of a task: `Setting(5, 1)` is "5-way 1-shot", 5w1s for short.

    Ways, shots and queries may be ranges: `Setting(ways=(5, 20), shots=(1, 10))` draws each of them anew for
    each meta-batch, every number from the first to the second with equal probability. All tasks of a
    meta-batch have the same size, so that they are one tensor.

    Args:
        ways: Number of classes in a task, N ≥ 2, or its range.
        shots: Number of support items of each class, at least 1, or its range.
        queries: Number of query items of each class, at least 1, or its range.
        unlabelled: Number of unlabelled items of each class.
        distractors: Number of further classes that contribute `unlabelled` items each, but neither support
            nor query items.
        together: Number of support and query items of each class together, if the queries are to be what the
            drawn shots leave of it; `queries` is then not given. None if they are drawn by themselves.
        dirichlet: Concentration α > 0 of queries that are unequally many: a task has N × queries of them in
            all, and the shares of the classes are drawn anew for each task from a Dirichlet distribution with
            α for each class, as Veilleux et al. 2021 do with α = 2. A class may have none. The less α, the
            more unequal. None for equally many of each class.

    Raises:
        ValueError: If a number is out of range, there are distractors without unlabelled items, `together`
            leaves no queries, or `dirichlet` is used with `together` or unlabelled items.

    Reference: Veilleux, Boudiaf, Piantanida, Ben Ayed 2021, "Realistic evaluation of transductive few-shot
    learning".
    """

    ways: Range
    shots: Range
    queries: Range = 15
    unlabelled: int = 0
    distractors: int = 0
    together: int | None = None
    dirichlet: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1)):
            object.__setattr__(self, name, _range(name, getattr(self, name), least))
        for name in ("unlabelled", "distractors"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0")
        if self.distractors and not self.unlabelled:
            raise ValueError(
                f"{self.distractors} distractors without unlabelled items: say how many of each class"
            )
        if self.together is not None:
            self._check_together(self.together)
        if self.dirichlet is not None:
            self._check_dirichlet(self.dirichlet)

    def _check_dirichlet(self, concentration: float) -> None:
        if not concentration > 0:
            raise ValueError(f"dirichlet is {concentration}: it must be above 0; Veilleux et al. take 2")
        if self.unlabelled or self.together is not None:
            other = "unlabelled items" if self.unlabelled else "together"
            raise ValueError(
                f"dirichlet is {concentration:g}, which does not go with {other}: leave out one of them"
            )

    def _check_together(self, together: int) -> None:
        fewest, most = ends(self.shots)
        if fewest == most:
            raise ValueError(
                f"together is {together} and shots {fewest}: it is for shots that are drawn; give queries"
            )
        if together <= most:
            raise ValueError(
                f"together is {together}: it must leave a query of each class beside {most} shots"
            )
        left = (together - most, together - fewest)
        if self.queries not in (15, left):
            raise ValueError(f"queries is {self.queries} and together {together}: give one of them")
        object.__setattr__(self, "queries", left)

    def __str__(self) -> str:
        """Short name of the task, such as `5w1s` for 5-way 1-shot; `5-20w1-10s` if they are drawn.

        `5w1s Dirichlet(2)` where classes have unequally many queries.
        """
        ways, shots = ("-".join(map(str, dict.fromkeys(ends(r)))) for r in (self.ways, self.shots))
        return f"{ways}w{shots}s" + (f" Dirichlet({self.dirichlet:g})" if self.dirichlet else "")

    @property
    def least(self) -> Size:
        """Size of the smallest task, with the lower ends of all ranges."""
        return self._with(0)

    @property
    def most(self) -> Size:
        """Size of the largest task, with the upper ends of all ranges; of every task if none is drawn."""
        return self._with(1)

    @property
    def drawn(self) -> bool:
        """Whether the size differs from meta-batch to meta-batch."""
        return self.least != self.most

    @property
    def items(self) -> int:
        """Number of items of each class that a task needs, at most."""
        return (self.together or self.most.shots + self.most.queries) + self.unlabelled

    def of_one(self, rng: np.random.Generator) -> Size:
        """Draw the size of the tasks of one meta-batch.

        Args:
            rng: Random generator.
        """
        shots, ways, queries = (
            int(rng.integers(low, high + 1)) if low < high else low
            for low, high in map(ends, (self.shots, self.ways, self.queries))
        )
        queries = queries if self.together is None else self.together - shots
        return Size(ways, shots, queries, self.unlabelled, self.distractors)

    def as_dict(self) -> dict[str, Any]:
        """JSON-serializable description for a manifest, of which `from_dict` makes an equal setting."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> "Setting":
        """The setting that `as_dict` described, before or after JSON, also in an earlier version.

        Args:
            stated: The description.
        """
        parts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()}
        if most := parts.pop("most_shots", None):
            parts["together"] = parts["shots"] + parts.pop("queries", 15)
            parts["shots"] = (parts["shots"], most)
        return cls(**parts)

    def _with(self, end: Literal[0, 1]) -> Size:
        ways, shots, queries = (ends(r)[end] for r in (self.ways, self.shots, self.queries))
        return Size(ways, shots, queries, self.unlabelled, self.distractors)


def ends(numbers: Range) -> tuple[int, int]:
    """Least and largest of the numbers of a range; twice the same of a single number.

    Args:
        numbers: A number or a range.
    """
    return (numbers, numbers) if isinstance(numbers, int) else numbers


def _range(name: str, given: Any, least: int) -> Range:
    """A number, or the two ends of a range, checked; a range of one number is that number."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        return whole(name, given, least)
    if len(given) != 2:
        raise ValueError(f"{name} is {given!r}: give a number, or the least and the largest, such as (1, 10)")
    low, high = (whole(name, end, least) for end in given)
    if low > high:
        raise ValueError(f"{name} is {given!r}: the least comes first, ({high}, {low})")
    return low if low == high else (low, high)


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
