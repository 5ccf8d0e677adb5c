"""Which problem a rule is learned on next, and for how many steps."""

from dataclasses import dataclass

import torch

from quickstudy.core.seeds import derived_seed
from quickstudy.optimizer.problems.problem import generator


@dataclass(frozen=True)
class Draw:
    """Of a meta-step: its number, and the seed of a problem that may begin with it."""

    step: int
    seed: int


@dataclass(frozen=True)
class Draws:
    """The meta-batches of a `RuleLearner`: it draws its problems itself, from these seeds.

    Args:
        tasks: B, optimisees side by side.
        seed: any non-negative integer.
    """

    tasks: int
    seed: int = 0

    def on(self, device: torch.device | str) -> "Draws":
        """The same: seeds have no device."""
        return self

    def part(self, i: int, rank: int = 0, world: int = 1) -> Draw:
        """The draw of meta-step i.

        Raises:
            ValueError: if there are several processes.
        """
        if world > 1:
            raise ValueError(
                "a rule is learned by one process, which runs optimisees side by side: devices=1"
            )
        return Draw(i, derived_seed(self.seed, i))


@dataclass(frozen=True)
class Horizon:
    """For how many steps each batch of problems is followed before new ones take their place.

    Args:
        low: at least so many.
        high: at most so many: each batch draws its own, uniformly in the logarithm. As many as `low` by
            default.
        rise: over so many meta-steps the most rises from `low` to `high`: a curriculum.

    Raises:
        ValueError: if these are not 1 ≤ low ≤ high and rise ≥ 0.
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
        """The longest it can be."""
        return self.low if self.high is None else self.high

    def draw(self, at: Draw) -> int:
        """The horizon of problems that begin with this draw."""
        share = min(1.0, at.step / self.rise) if self.rise else 1.0
        most = self.low * (self.longest / self.low) ** share
        place = torch.rand((), generator=generator(at.seed, 5)).item()
        return round(self.low * (most / self.low) ** place)
