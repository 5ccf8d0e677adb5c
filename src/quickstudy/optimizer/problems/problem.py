"""Optimisation problems, and families of problems that are made of other families."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from quickstudy.core.adapt import Loss, Tensors
from quickstudy.core.arguments import checked_class
from quickstudy.core.seeds import derived_seed


@checked_class
@dataclass(frozen=True)
class ProblemBatch:
    """B optimisation problems of one family, which run in parallel with separate parameters.

    Args:
        start: [B, ...] initial parameters θ₀, by name.
        loss: Function f from (parameters, number of the step) to the losses [B] on the minibatches of that
            step.
        held_out: The same function on data that `loss` never sees; `loss` itself if a family has no such
            data.
    """

    start: Tensors
    loss: Loss
    held_out: Loss


class ProblemFamily(Protocol):
    """A distribution of optimisation problems."""

    def sample(self, count: int, seed: int) -> ProblemBatch:
        """Draw problems; they are a function of the seed.

        Args:
            count: B, the number of problems.
            seed: Seed of the draw.

        Returns:
            B problems.
        """
        ...


def generator(seed: int, *key: int) -> torch.Generator:
    """A random number generator for one purpose.

    Args:
        seed: Seed of the whole draw, such as that of a family's `sample`.
        key: Numbers of the purpose, which keep the draws of several purposes apart; see `derived_seed`.

    Returns:
        A generator on the CPU, in the state that is given by the seed and the key.
    """
    return torch.Generator().manual_seed(derived_seed(seed, *key))


@checked_class
@dataclass(frozen=True)
class Mixture:
    """Problem family: each draw is of one of several families, all equally likely.

    Args:
        families: The families, at least one.

    Raises:
        ValueError: If there is none.
    """

    families: Sequence[ProblemFamily]

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not self.families:
            raise ValueError("a mixture takes at least one family")

    def sample(self, count: int, seed: int) -> ProblemBatch:
        """Draw one of the families, and problems of it.

        Args:
            count: B, the number of problems.
            seed: Seed of the draw.

        Returns:
            B problems of the same family.
        """
        which = int(torch.randint(len(self.families), (), generator=generator(seed, 1)))
        return self.families[which].sample(count, seed)


@checked_class
@dataclass(frozen=True)
class Reparametrized:
    r"""Problem family: another one with randomly scaled parameters, $\tilde f(\theta) = f(c \circ \theta)$.

    Each coordinate has its own $c = e^u$ with $u \sim U[-s, s]$, and starts at $\theta_0 / c$: the values of
    the function are the same, and its gradients differ in size by up to $e^{2s}$. A rule that is learned on
    such problems cannot rely on the scale of one problem.

    Args:
        family: Family of the original problems.
        spread: Largest magnitude s ≥ 0 of the logarithm of a scale.

    Raises:
        ValueError: If `spread` is negative.

    Reference: Lv, Jiang, Li 2017, §4.2 ("random scaling"), with s = 3.
    """

    family: ProblemFamily
    spread: float = 3.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.spread < 0:
            raise ValueError(f"spread is {self.spread}: it must be at least 0")

    def sample(self, count: int, seed: int) -> ProblemBatch:
        """Draw problems of the family, and the scales of their parameters.

        Args:
            count: B, the number of problems.
            seed: Seed of the draw.

        Returns:
            B problems with scaled parameters.
        """
        plain, rng = self.family.sample(count, seed), generator(seed, 2)
        units = {
            k: ((2 * torch.rand(p.shape, generator=rng).to(p) - 1) * self.spread).exp()
            for k, p in plain.start.items()
        }

        def inside(loss: Loss) -> Loss:
            return lambda p, step: loss({k: units[k].to(v) * v for k, v in p.items()}, step)

        start = {k: p / units[k] for k, p in plain.start.items()}
        return ProblemBatch(start, inside(plain.loss), inside(plain.held_out))
