"""Oracle of Siamese networks: the equations of the paper, literally and slowly."""

from collections.abc import Callable

import torch
from torch import Tensor

from tests.metric.oracle_prototypical import snell_distance


# Hadsell, Chopra, LeCun 2006 and Koch, Zemel, Salakhutdinov 2015: Siamese networks
def hadsell_energy(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖."""
    return torch.sqrt(snell_distance(a, b))


def hadsell_loss(energy: Tensor, genuine: bool, margin: float) -> Tensor:
    """Y·E² + (1 − Y)·max(margin − E, 0)² of one pair."""
    return energy**2 if genuine else torch.clamp(margin - energy, min=0) ** 2


def koch_probability(alpha: Tensor, beta: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """σ(Σ_d α_d |a_d − b_d| + β): that both are of one class."""
    total = beta
    for d in range(len(a)):
        total = total + alpha[d] * torch.abs(a[d] - b[d])
    return torch.sigmoid(total)


def balanced(
    items: list[Tensor], y: list[int], pair_loss: Callable[[Tensor, Tensor, bool], Tensor]
) -> Tensor:
    """Half the mean loss of all genuine pairs, half that of all impostor pairs."""
    means = []
    for genuine in (True, False):
        losses = [
            pair_loss(items[i], items[j], genuine)
            for i in range(len(items))
            for j in range(i)
            if (y[i] == y[j]) == genuine
        ]
        means.append(sum(losses[1:], losses[0]) / len(losses))
    return (means[0] + means[1]) / 2
