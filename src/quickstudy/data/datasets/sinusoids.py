"""Sinusoid regression: tasks that need no data, each a sine with its own amplitude and phase."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quickstudy.core.episode import Episode, Support

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, float(np.pi))
INPUTS = (-5.0, 5.0)


@dataclass(frozen=True)
class Sinusoids:
    r"""An endless, reproducible sequence of meta-batches of sinusoid regression tasks.

    $$y = a \sin(x - p), \qquad a \sim U[0.1, 5],\ p \sim U[0, \pi],\ x \sim U[-5, 5]$$

    Args:
        shots: Number of support points of a task, K.
        queries: Number of query points of a task.
        tasks: Number of tasks in a meta-batch, T.
        seed: Seed of the random draws, at least 0.
        device: Device of the returned tensors.

    Raises:
        ValueError: If a number is too small.

    Reference: Finn, Abbeel, Levine 2017, §5.1.
    """

    shots: int = 10
    queries: int = 10
    tasks: int = 25
    seed: int = 0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if min(self.shots, self.queries, self.tasks) < 1 or self.seed < 0:
            raise ValueError(
                f"shots is {self.shots}, queries {self.queries}, tasks {self.tasks}, seed {self.seed}: "
                "the first three must be at least 1, the seed at least 0"
            )

    @property
    def setting(self) -> str:
        """Label of the tasks in results."""
        return f"{self.shots} points"

    def on(self, device: torch.device | str) -> "Sinusoids":
        """The same tasks on another device.

        Args:
            device: Device of the returned tensors.
        """
        return Sinusoids(self.shots, self.queries, self.tasks, self.seed, device)

    def __getitem__(self, i: int) -> Episode:
        """Meta-batch i, an episode of T regression tasks with x and y [T, points, 1] in float32."""
        return self.part(i)

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """The tasks of meta-batch i for one of several processes: every `world`-th task from `rank` on.

        Args:
            i: Index of the meta-batch, at least 0.
            rank: Index of this process, 0 … world − 1.
            world: Number of processes.
        """
        amplitude, phase, x = self._draw(i)
        y = amplitude[:, None] * np.sin(x - phase[:, None])
        points = self._tensor(x[rank::world, :, None])
        values = self._tensor(y[rank::world, :, None])
        support = Support(points[:, : self.shots], values[:, : self.shots], ways=0)
        return Episode(support, points[:, self.shots :], values[:, self.shots :])

    def summary(self) -> dict[str, Any]:
        """JSON-serializable description for a manifest, equal for equal tasks."""
        kind, sizes = type(self).__name__, {"shots": self.shots, "queries": self.queries}
        return {"kind": kind, **sizes, "tasks": self.tasks, "seed": self.seed}

    def curves(self, i: int, x: Tensor) -> Tensor:
        """Evaluate the true sinusoids of meta-batch i.

        Args:
            i: Index of the meta-batch, at least 0.
            x: [B] points.

        Returns:
            Values [T, B] of the T sinusoids at the points.
        """
        amplitude, phase, _ = self._draw(i)
        return self._tensor(amplitude[:, None] * np.sin(x.numpy() - phase[:, None]))

    def _draw(self, i: int) -> tuple[npt.NDArray[np.float64], ...]:
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(i,)))
        amplitude, phase = rng.uniform(*AMPLITUDES, self.tasks), rng.uniform(*PHASES, self.tasks)
        return amplitude, phase, rng.uniform(*INPUTS, (self.tasks, self.shots + self.queries))

    def _tensor(self, a: npt.NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(a.astype(np.float32)).to(self.device)
