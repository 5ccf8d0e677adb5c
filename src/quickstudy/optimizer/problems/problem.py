"""What an optimisation problem is, and problems made of others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from quickstudy.core.adapt import Loss, Tensors
from quickstudy.core.seeds import derived_seed


@dataclass(frozen=True)
class Optimizees:
    """B problems of one family side by side, each with parameters of its own.

    Args:
        start: θ₀, [B, ...] by name.
        loss: f: from (parameters, number of the step) to the losses [B] of that step's minibatches.
        held_out: the same on data that `loss` never sees; where a family has none, `loss` itself.
    """

    start: Tensors
    loss: Loss
    held_out: Loss


class Family(Protocol):
    """A distribution of optimisation problems."""

    def sample(self, count: int, seed: int) -> Optimizees:
        """Draw B = `count` problems; what is drawn is a function of `seed`."""
        ...


def generator(seed: int, *key: int) -> torch.Generator:
    """A source of randomness that is a function of a seed and the numbers of a part: see `derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, *key))


@dataclass(frozen=True)
class Mixture:
    """One of some families at a time, each as likely as the others.

    Args:
        families: at least one.

    Raises:
        ValueError: if there is none.
    """

    families: Sequence[Family]

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not self.families:
            raise ValueError("a mixture takes at least one family")

    def sample(self, count: int, seed: int) -> Optimizees:
        """Problems of one of the families, drawn."""
        which = int(torch.randint(len(self.families), (), generator=generator(seed, 1)))
        return self.families[which].sample(count, seed)


@dataclass(frozen=True)
class Reparametrised:
    r"""The problems of a family in other units: $\tilde f(\theta) = f(c \circ \theta)$.

    Each parameter has a $c = e^u$ of its own with $u \sim U[-s, s]$, and begins at $\theta_0 / c$: the same
    function is followed, and its gradients differ in size by up to $e^{2s}$. A rule that is learned on such
    problems can't rely on the scale of one problem.

    Args:
        family: of the problems.
        spread: s.

    Raises:
        ValueError: if `spread` is negative.

    Reference: Lv, Jiang, Li 2017, §4.2 ("random scaling"), with s = 3.
    """

    family: Family
    spread: float = 3.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.spread < 0:
            raise ValueError(f"spread is {self.spread}: it must be at least 0")

    def sample(self, count: int, seed: int) -> Optimizees:
        """Problems of the family in other units."""
        plain, rng = self.family.sample(count, seed), generator(seed, 2)
        units = {
            k: ((2 * torch.rand(p.shape, generator=rng).to(p) - 1) * self.spread).exp()
            for k, p in plain.start.items()
        }

        def inside(loss: Loss) -> Loss:
            return lambda p, step: loss({k: units[k].to(v) * v for k, v in p.items()}, step)

        start = {k: p / units[k] for k, p in plain.start.items()}
        return Optimizees(start, inside(plain.loss), inside(plain.held_out))
