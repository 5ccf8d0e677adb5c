"""Small convolutional networks that classify a few characters of Omniglot."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from quickstudy.core.arguments import checked_class
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool
from quickstudy.optimizer.problems.problem import ProblemBatch, generator
from quickstudy.optimizer.problems.supervised import Dataset, Supervised

SEEN = 15
"""Number of training items of each class; the others are held out."""


@checked_class
@dataclass(frozen=True)
class Letters:
    """Problem family: a small convolutional network learns to classify a few classes of a pool.

    All problems of one draw have the same classes, chosen by the seed. 15 items of each class are for
    training, and the others are held out.

    Args:
        pool: Classes to draw from, such as a split of `omniglot()`; a rule should be tested on another split
            than it was learned on.
        classes: Number of classes of a problem.
        channels: Channels of each of the two convolutions.
        batch: Items in a minibatch.

    Raises:
        ValueError: If the pool holds no pictures or too few classes, or one of them has 15 items or fewer.
    """

    pool: ClassPool
    classes: int = 10
    channels: int = 8
    batch: int = 64

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.pool.items.ndim != 4:
            raise ValueError(
                f"items are {list(self.pool.items.shape[1:])}: these problems take pictures [C, H, W]"
            )
        if not 2 <= self.classes <= len(self.pool) or self.channels < 1:
            raise ValueError(
                f"classes is {self.classes} and channels {self.channels}: 2 … {len(self.pool)} classes of "
                f"{self.pool.name} and at least 1 channel"
            )
        if int(self.pool.counts.min()) <= SEEN:
            raise ValueError(
                f"a class of {self.pool.name} has {self.pool.counts.min()} items: take more than {SEEN}"
            )

    def sample(self, count: int, seed: int) -> ProblemBatch:
        """Draw the classes, and the initial weights of each network.

        Args:
            count: B, the number of problems.
            seed: Seed of the draw.

        Returns:
            B problems with the same classes.
        """
        chosen = torch.randperm(len(self.pool), generator=generator(seed, 6))[: self.classes].tolist()
        items = [torch.from_numpy(self.pool.of_class(self.pool.classes[c])) for c in chosen]

        def data(part: slice) -> Dataset:
            parts = [x[part] for x in items]
            y = torch.cat([torch.full((len(x),), label) for label, x in enumerate(parts)])
            return Dataset(floats(torch.cat(parts)), y)

        family = Supervised(
            self._model, data(slice(SEEN)), data(slice(SEEN, None)), F.cross_entropy, self.batch
        )
        return family.sample(count, seed)

    def _model(self) -> nn.Module:
        channels, height, width = self.pool.items.shape[1:]
        return nn.Sequential(
            nn.Conv2d(channels, self.channels, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(self.channels, self.channels, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(self.channels * (height // 4) * (width // 4), self.classes),
        )
