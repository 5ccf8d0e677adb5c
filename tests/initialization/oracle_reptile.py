"""Oracle of Reptile: the equations of the paper, literally and slowly."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.initialization.oracle_maml import ItemLoss, Net, finn_cross_entropy, finn_gradient, finn_loss
from tests.support.oracles import Weights


# Nichol, Achiam, Schulman 2018: "On First-Order Meta-Learning Algorithms"
@dataclass
class NicholAdam:
    """State of Adam (Kingma, Ba 2015, Algorithm 1): steps taken, and second moments v."""

    t: int
    v: Weights


def nichol_adam(
    net: Net,
    weights: Weights,
    batches: list[tuple[Tensor, Tensor]],
    lr: float,
    state: NicholAdam | None = None,
    item_loss: ItemLoss = finn_cross_entropy,
) -> tuple[Weights, NicholAdam]:
    """U^k of Algorithm 1: a step of Adam with β₁ = 0 for each minibatch; from a state of Adam, or afresh."""
    beta1, beta2, eps = 0.0, 0.999, 1e-8
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    t, v = (0, m) if state is None else (state.t, state.v)
    for x, y in batches:
        t = t + 1
        weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        gradients = finn_gradient(finn_loss(net(weights, x), y, item_loss), weights, weights)
        moved: tuple[Weights, Weights, Weights] = ({}, {}, {})
        for name, w in weights.items():
            g = gradients[name].detach()
            moved[1][name] = beta1 * m[name] + (1 - beta1) * g
            moved[2][name] = beta2 * v[name] + (1 - beta2) * g**2
            m_hat = moved[1][name] / (1 - beta1**t)
            v_hat = moved[2][name] / (1 - beta2**t)
            moved[0][name] = (w - lr * m_hat / (torch.sqrt(v_hat) + eps)).detach()
        weights, m, v = moved
    return weights, NicholAdam(t, v)


@dataclass
class Nichol:
    """What one iteration of Algorithm 2 computes."""

    mean: Weights
    distance: Tensor
    state: NicholAdam


def nichol(
    net: Net,
    weights: Weights,
    tasks: list[list[tuple[Tensor, Tensor]]],
    lr: float,
    state: NicholAdam | None = None,
    item_loss: ItemLoss = finn_cross_entropy,
) -> Nichol:
    """The mean of φ̃_i over tasks, the mean of ½ ‖φ − φ̃_i‖², and the mean state of Adam."""
    mean = {name: torch.zeros_like(w) for name, w in weights.items()}
    seconds = {name: torch.zeros_like(w) for name, w in weights.items()}
    distance, t = torch.zeros((), dtype=next(iter(weights.values())).dtype), 0
    for batches in tasks:
        after, left = nichol_adam(net, weights, batches, lr, state, item_loss)
        t = left.t
        for name, w in weights.items():
            mean[name] = mean[name] + after[name] / len(tasks)
            seconds[name] = seconds[name] + left.v[name] / len(tasks)
            distance = distance + ((w.detach() - after[name]) ** 2).sum() / 2 / len(tasks)
    return Nichol(mean, distance, NicholAdam(t, seconds))
