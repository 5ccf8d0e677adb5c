"""Training any model on any labelled data, as an optimisation problem."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from quickstudy.core.adapt import Loss, Tensors
from quickstudy.core.arguments import checked_class
from quickstudy.core.kernels.per_task import per_task
from quickstudy.core.kernels.switch import for_each
from quickstudy.core.seeds import derived_seed, generators_kept
from quickstudy.optimizer.problems.problem import ProblemBatch, generator


@checked_class
@dataclass(frozen=True)
class Dataset:
    """A data set for supervised learning.

    Args:
        x: [n, ...] items.
        y: [n, ...] labels, or values for a regression.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """The number n of items."""
        return len(self.x)


@checked_class
@dataclass(frozen=True)
class Supervised:
    """Problem family: a model is trained on labelled data, from random initial weights on random minibatches.

    Args:
        model: Function that makes a freshly initialised model, any module that `per_task` takes.
        train: Training data, for `ProblemBatch.loss`.
        held_out: Held-out data, for `ProblemBatch.held_out`.
        criterion: Function from the outputs and labels of a minibatch to its loss, such as `F.cross_entropy`.
        batch: Items in a minibatch, at least 1; all items if there are fewer.

    Raises:
        ValueError: If there are no data, numbers of items and labels differ, or `batch` < 1.

    Example:
        >>> import torch
        >>> from quickstudy.optimizer.problems.supervised import Dataset, Supervised
        >>> x = torch.randn(100, 3)
        >>> line = Dataset(x, x.sum(1, keepdim=True))
        >>> family = Supervised(lambda: torch.nn.Linear(3, 1), line, line, torch.nn.functional.mse_loss)
        >>> problems = family.sample(count=8, seed=0)
        >>> problems.loss(problems.start, 0).shape
        torch.Size([8])
    """

    model: Callable[[], nn.Module]
    train: Dataset
    held_out: Dataset
    criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    batch: int = 128

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, data in (("train", self.train), ("held_out", self.held_out)):
            if not len(data) or len(data.x) != len(data.y):
                raise ValueError(f"{name} has {len(data.x)} items and {len(data.y)} labels: as many, some")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}: it must be at least 1")

    def sample(self, count: int, seed: int) -> ProblemBatch:
        """Draw the initial weights of each problem; minibatches are a function of the seed and the step.

        Args:
            count: B, the number of problems.
            seed: Seed of the draw.

        Returns:
            B problems on the same data.
        """
        with generators_kept(derived_seed(seed, 3)):
            models = [self.model() for _ in range(count)]
        weights = [dict(m.named_parameters()) for m in models]
        start = {k: torch.stack([w[k].detach() for w in weights]) for k in weights[0]}
        train = self._loss(models[0], self.train, seed, 0)
        held_out = self._loss(models[0], self.held_out, seed, 1)
        return ProblemBatch(start, train, held_out)

    def _loss(self, model: nn.Module, data: Dataset, seed: int, part: int) -> Loss:
        size = min(self.batch, len(data))

        def loss(p: Tensors, step: int) -> Tensor:
            one = next(iter(p.values()))
            count, device = len(one), one.device
            rng = generator(seed, 4, part, step)
            # the first of all indices in random order, so that a minibatch has no item twice
            chosen = torch.rand(count, len(data), generator=rng).topk(size, 1).indices
            x, y = data.x[chosen].to(device), data.y[chosen].to(device)
            return for_each(self.criterion)(per_task(model, p, x), y)

        return loss


SPLIT_SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
"""First and last share of the shuffled items in each split, for data without splits of their own."""
SHUFFLE = 469874208863542616
"""Seed of the shuffle. It must not change, as the shipped rules were trained on its "train"."""


def part_of(data: Dataset, split: str) -> Dataset:
    """One of the `SPLIT_SHARES` of a data set, after a fixed shuffle.

    Args:
        data: The whole data set.
        split: Name of the split: "train", "validation" or "test".

    Returns:
        The items of the split.

    Raises:
        ValueError: If there is no split of that name.
    """
    if split not in SPLIT_SHARES:
        raise ValueError(f"there is no split {split!r}: choose one of {', '.join(SPLIT_SHARES)}")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SHUFFLE))
    first, last = SPLIT_SHARES[split]
    chosen = order[round(len(data) * first) : round(len(data) * last)]
    return Dataset(data.x[chosen], data.y[chosen])


def digits(split: str) -> Dataset:
    """A split of scikit-learn's 1,797 digits of 8 × 8 pixels.

    Args:
        split: Name of the split: "train", "validation" or "test".

    Returns:
        Items x [n, 64] in 0 … 1 and labels y [n].

    Raises:
        ValueError: If there is no split of that name.
    """
    pictures, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(np.asarray(pictures, np.float32)) / 16
    return part_of(Dataset(x, torch.from_numpy(np.asarray(labels, np.int64))), split)


def mlp(
    inputs: int, units: int = 20, layers: int = 1, classes: int = 10, activation: type[nn.Module] = nn.Sigmoid
) -> nn.Sequential:
    """A multilayer perceptron.

    Args:
        inputs: Numbers in an item.
        units: Units of each hidden layer.
        layers: Number of hidden layers.
        classes: Number of outputs.
        activation: Module after each hidden layer.

    Returns:
        A module from [B, inputs] to [B, classes] logits.
    """
    sizes = [inputs, *[units] * layers]
    hidden = [m for i in range(layers) for m in (nn.Linear(sizes[i], sizes[i + 1]), activation())]
    return nn.Sequential(*hidden, nn.Linear(units, classes))
