"""Random quadratics."""

from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.core.adapt import Tensors
from quickstudy.core.arguments import checked_class
from quickstudy.optimizer.problems.problem import ProblemBatch, generator


@checked_class
@dataclass(frozen=True)
class Quadratics:
    r"""Problem family: quadratics $f(\theta) = \lVert W \theta - y \rVert^2$ with W and y standard Gaussian.

    Args:
        dimensions: Number of dimensions of θ and y, 10 in the paper.
        scale: Factor > 0 that W is multiplied by, 1 in the paper; other values test a rule on problems that
            it was not learned on.
        spread: Standard deviation ≥ 0 of the Gaussian $\theta_0$; 0.01 in the authors' code.

    Raises:
        ValueError: If a number is out of range.

    Reference: Andrychowicz et al. 2016, §3.1. Departures: the authors' code draws W and y uniformly from
    [0, 1).
    """

    dimensions: int = 10
    scale: float = 1.0
    spread: float = 0.01

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.dimensions < 1 or self.scale <= 0 or self.spread < 0:
            raise ValueError(
                f"dimensions is {self.dimensions}, scale {self.scale}, spread {self.spread}: "
                "at least 1, above 0, at least 0"
            )

    def sample(self, count: int, seed: int) -> ProblemBatch:
        """Draw W, y and θ₀ of each problem.

        Args:
            count: B, the number of problems.
            seed: Seed of the draw.

        Returns:
            B problems with the parameter `theta` [B, dimensions].
        """
        rng, n = generator(seed), self.dimensions
        w = self.scale * torch.randn(count, n, n, generator=rng)
        y = torch.randn(count, n, generator=rng)
        start = self.spread * torch.randn(count, n, generator=rng)

        def loss(p: Tensors, step: int) -> Tensor:
            away = torch.bmm(w.to(p["theta"]), p["theta"].unsqueeze(2)).squeeze(2) - y.to(p["theta"])
            return away.square().sum(1)

        return ProblemBatch({"theta": start}, loss, loss)
