"""Baseline and Baseline++: a linear layer, or one of cosines, trained on the support of each task.

Wei-Yu Chen, Yen-Cheng Liu, Zsolt Kira, Yu-Chiang Frank Wang, Jia-Bin Huang: "A Closer Look at Few-shot
Classification", ICLR 2019.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATE, MOMENTUM, DAMPENING, DECAY, BATCH = 0.01, 0.9, 0.9, 0.001, 4
"""Of the gradient descent on the support, as in the authors' code."""

Parts = tuple[Tensor, ...]
Gradients = Callable[[Parts, Tensor, Tensor], Parts]


@torch.no_grad()
def baseline(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, epochs: int = 100, seed: int = 0
) -> Tensor:
    r"""Head that trains a linear layer on the support by gradient descent (inductive).

    $$p(y = k \mid z) = \operatorname{softmax}(W z + b)_k$$

    Cross-entropy, learning rate 0.01, momentum and dampening 0.9, weight decay 0.001, batches of 4. All tasks
    are trained at once, with the same first weights and the same order of the items.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        epochs: Number of times that each item is trained on.
        seed: Seed of the first weights and of the order of the items.

    Returns:
        [T, Q, N] scores, without gradient.

    Reference: Chen et al. 2019, "Baseline"; what the paper leaves open is the authors' code.

    Departures: none, given features as the encoder makes them. A `PlainClassifier` brings them to unit length
    first, on which the same rate and the same number of epochs fit less closely.
    """
    first, orders = _draws(ways, shots, epochs, seed, columns=shots.shape[-1] + 1)  # the last is the bias
    z = F.pad(shots, (0, 1), value=1.0)
    (weight,) = _trained((first,), _linear_gradients, z, y, orders)
    return F.pad(queries, (0, 1), value=1.0) @ weight.mT


@torch.no_grad()
def baseline_plus_plus(
    shots: Tensor, y: Tensor, ways: int, queries: Tensor, *, epochs: int = 100, seed: int = 0
) -> Tensor:
    r"""Head that trains a layer of cosines on the support by gradient descent (inductive).

    $$p(y = k \mid z) = \operatorname{softmax}\Big(\tau\, g_k \frac{v_k \cdot z}{\lVert v_k \rVert
    \lVert z \rVert}\Big)_k$$

    The directions $v_k$ and the factors $g_k$ are learned, τ = 2 is fixed (10 for more than 200 classes). The
    rest is as in `baseline`.

    Args:
        shots: [T, S, D] features of the support.
        y: [T, S] labels in 0 … N − 1.
        ways: Number N of classes.
        queries: [T, Q, D] features of the queries.
        epochs: Number of times that each item is trained on.
        seed: Seed of the first weights and of the order of the items.

    Returns:
        [T, Q, N] scores in −τg … τg, without gradient.

    Reference: Chen et al. 2019, "Baseline++"; the factors $g_k$ are in the authors' code alone.

    Departures: none.
    """
    first, orders = _draws(ways, shots, epochs, seed, columns=shots.shape[-1])
    parts = first, first.norm(dim=-1, keepdim=True)
    direction, length = _trained(parts, _cosine_gradients, _unit(shots), y, orders)
    return sharpness(ways) * _unit(queries) @ (length * F.normalize(direction, dim=-1)).mT


class CosineLinear(nn.Module):
    r"""The last layer of Baseline++'s classifier: scores $\tau\, g_k \cos(v_k, z)$, as `baseline_plus_plus`.

    Args:
        in_features: Length D of a feature vector.
        out_features: Number K of classes.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.direction = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.direction, a=math.sqrt(5))  # as torch's linear layer
        self.length = nn.Parameter(self.direction.detach().norm(dim=-1, keepdim=True))

    def forward(self, z: Tensor) -> Tensor:
        """Scores of features, in full precision.

        Args:
            z: [B, D] features.

        Returns:
            [B, K] scores.
        """
        with torch.autocast(z.device.type, enabled=False):
            weight = self.length * F.normalize(self.direction, dim=-1)
            return sharpness(self.out_features) * F.linear(_unit(z.to(weight.dtype)), weight)


def sharpness(classes: int) -> float:
    """The factor τ of the authors' code.

    Args:
        classes: Number of classes.
    """
    return 2.0 if classes <= 200 else 10.0


def _unit(z: Tensor) -> Tensor:
    return z / (z.norm(dim=-1, keepdim=True) + 1e-5)


def _draws(ways: int, shots: Tensor, epochs: int, seed: int, columns: int) -> tuple[Tensor, Iterator[Tensor]]:
    """First weights [T, N, columns], the same for all tasks, and the items of each step."""
    rng = torch.Generator().manual_seed(seed)
    tasks, items, dimensions = shots.shape
    first = (torch.rand(ways, columns, generator=rng, dtype=torch.float64) * 2 - 1) / math.sqrt(dimensions)
    orders = torch.stack([torch.randperm(items, generator=rng) for _ in range(epochs)])
    steps = (step for order in orders.to(shots.device) for step in order.split(BATCH))
    return first.to(shots).expand(tasks, ways, columns), steps


def _trained(parts: Parts, gradients: Gradients, z: Tensor, y: Tensor, steps: Iterator[Tensor]) -> Parts:
    """The parts of a layer after gradient descent with momentum, as torch's SGD does it."""
    wanted = F.one_hot(y, parts[0].shape[1]).to(z.dtype)
    speeds: Parts | None = None
    for step in steps:
        slopes = gradients(parts, z[:, step], wanted[:, step])
        slopes = tuple(g + DECAY * p for g, p in zip(slopes, parts, strict=True))
        if speeds is None:
            speeds = slopes
        else:
            speeds = tuple(MOMENTUM * v + (1 - DAMPENING) * g for v, g in zip(speeds, slopes, strict=True))
        parts = tuple(p - RATE * v for p, v in zip(parts, speeds, strict=True))
    return parts


def _linear_gradients(parts: Parts, z: Tensor, wanted: Tensor) -> Parts:
    return (_of_scores(z @ parts[0].mT, wanted).mT @ z,)


def _cosine_gradients(parts: Parts, z: Tensor, wanted: Tensor) -> Parts:
    direction, length = parts
    size = direction.norm(dim=-1, keepdim=True)
    unit, factor = direction / size, sharpness(wanted.shape[-1])
    of_weight = factor * _of_scores(factor * z @ (length * unit).mT, wanted).mT @ z
    of_length = (of_weight * unit).sum(-1, keepdim=True)
    return length / size * (of_weight - of_length * unit), of_length


def _of_scores(scores: Tensor, wanted: Tensor) -> Tensor:
    """Gradient of the cross-entropy of a batch of each task by its scores [T, B, N]."""
    return (scores.softmax(-1) - wanted) / scores.shape[1]
