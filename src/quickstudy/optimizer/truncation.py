"""Truncation schedules: which problems a rule is learned on next, and for how many steps."""

from dataclasses import dataclass

import torch

from quickstudy.core.arguments import checked_class
from quickstudy.core.seeds import derived_seed
from quickstudy.optimizer.problems.problem import generator


@checked_class
@dataclass(frozen=True)
class ProblemSeed:
    """Random draw of a meta-step.

    Args:
        step: Number of the meta-step.
        seed: Seed of the problems that may begin in this meta-step.
    """

    step: int
    seed: int


@checked_class
@dataclass(frozen=True)
class ProblemSeeds:
    """Meta-batches of a `RuleLearner`: only seeds, from which it draws the problems itself.

    Args:
        tasks: B, the number of problems that run in parallel.
        seed: Seed of all draws, any non-negative integer.
    """

    tasks: int
    seed: int = 0

    def on(self, device: torch.device | str) -> "ProblemSeeds":
        """The same object, as seeds have no device."""
        return self

    def part(self, i: int, rank: int = 0, world: int = 1) -> ProblemSeed:
        """Draw of a meta-step.

        Args:
            i: Number of the meta-step.
            rank: Number of the process; only one process is supported.
            world: Number of processes; must be 1.

        Returns:
            The draw, a function of the seed and the number.

        Raises:
            ValueError: If there are several processes.
        """
        if world > 1:
            raise ValueError(
                "a rule is learned by one process, which runs optimizees side by side: devices=1"
            )
        return ProblemSeed(i, derived_seed(self.seed, i))


@checked_class
@dataclass(frozen=True)
class TruncationSchedule:
    """Number of steps that a batch of problems runs for before new problems replace it.

    Args:
        low: Least number of steps.
        high: Largest number of steps; each batch draws its own, log-uniformly. By default the same as `low`.
        rise: Number of meta-steps over which the largest number rises from `low` to `high`, a curriculum; 0
            for none.

    Raises:
        ValueError: If not 1 ≤ low ≤ high and rise ≥ 0.
    """

    low: int = 100
    high: int | None = None
    rise: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 1 <= self.low <= self.longest or self.rise < 0:
            raise ValueError(f"{self}: 1 ≤ low ≤ high and rise ≥ 0 are wanted")

    @property
    def longest(self) -> int:
        """Largest number of steps that can be drawn."""
        return self.low if self.high is None else self.high

    def draw(self, at: ProblemSeed) -> int:
        """Draw a horizon.

        Args:
            at: Draw of the meta-step in which the problems begin.

        Returns:
            The number of steps of these problems.
        """
        share = min(1.0, at.step / self.rise) if self.rise else 1.0
        most = self.low * (self.longest / self.low) ** share
        place = torch.rand((), generator=generator(at.seed, 5)).item()
        return round(self.low * (most / self.low) ** place)
