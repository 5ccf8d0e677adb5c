"""Oracle of MAML++: the parts of the paper, literally and slowly, task by task and step by step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.core.episode import Episode
from tests.support.oracles import Weights

# Antoniou, Edwards, Storkey 2019: "How to train your MAML"
TaskLoss = Callable[[Tensor, Tensor], Tensor]


def antoniou_conv4(weights: Weights, x: Tensor) -> Tensor:
    """Four blocks of convolution, batch norm by the batch, ReLU and max-pool; a linear layer."""
    for i in range(4):
        x = F.conv2d(x, weights[f"encoder.convs.{i}.weight"], padding=1)
        norm = weights[f"encoder.norms.{i}.weight"], weights[f"encoder.norms.{i}.bias"]
        x = F.batch_norm(x, None, None, *norm, training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), weights["head.weight"], weights["head.bias"])


def antoniou_importance(steps: int, done: float, until: float) -> list[float]:
    """The weight of each step's loss: uniform at first; those of the early steps fall to 0.03 / steps.

    `done` and `until` are counted in the same unit, whatever it is.
    """
    weights = [1 / steps] * steps
    decay = 1 / steps / until
    lowest = 0.03 / steps
    for i in range(steps - 1):
        weights[i] = max(weights[i] - done * decay, lowest)
    weights[-1] = min(weights[-1] + done * (steps - 1) * decay, 1 - (steps - 1) * lowest)
    return weights


@dataclass
class Antoniou:
    """What is learned, beside the weights: rates [K] by name, γ and β [K, C] by name; empty without."""

    rates: Weights
    norms: Weights


def antoniou_task(
    weights: Weights,
    learned: Antoniou,
    e: Episode,
    t: int,
    steps: int,
    importance: list[float],
    first_order: bool,
    inner: TaskLoss,
    outer: TaskLoss,
    lr: float,
) -> tuple[Tensor, Tensor]:
    """Algorithm of one task: its meta-loss, and the scores of its queries after the last step."""
    own = dict(weights)
    loss = torch.zeros((), dtype=torch.float64)
    scores = torch.empty(0)
    for k in range(steps):
        norms = {name: rows[min(k, len(rows) - 1)] for name, rows in learned.norms.items()}
        adapted = [name for name in own if name not in norms]
        support_loss = inner(antoniou_conv4(own | norms, e.support.x[t]), e.support.y[t])
        gradients = torch.autograd.grad(
            support_loss, [own[name] for name in adapted], create_graph=not first_order, retain_graph=True
        )
        for name, gradient in zip(adapted, gradients, strict=True):
            rows = learned.rates.get(name)
            rate = lr if rows is None else rows[min(k, len(rows) - 1)]
            own[name] = own[name] - rate * gradient
        scores = antoniou_conv4(own | norms, e.query_x[t])
        loss = loss + importance[k] * outer(scores, e.query_y[t])
    return loss, scores


def antoniou(
    weights: Weights,
    learned: Antoniou,
    e: Episode,
    steps: int,
    *,
    importance: list[float] | None = None,
    first_order: bool = False,
    inner: TaskLoss = F.cross_entropy,
    outer: TaskLoss = F.cross_entropy,
    lr: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """The mean of the tasks' meta-losses, and the scores [T, Q, N]; without `importance` the last step's."""
    importance = importance or [0.0] * (steps - 1) + [1.0]
    each = [
        antoniou_task(weights, learned, e, t, steps, importance, first_order, inner, outer, lr)
        for t in range(e.tasks)
    ]
    return torch.stack([loss for loss, _ in each]).mean(), torch.stack([scores for _, scores in each])
