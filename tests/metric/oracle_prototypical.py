"""Oracle of prototypical networks: the equations of the paper, literally and slowly."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.support.oracles import Encode


# Snell, Swersky, Zemel 2017: "Prototypical Networks for Few-shot Learning"
@dataclass
class SnellTask:
    """What Algorithm 1 computes for one task."""

    log_probabilities: list[list[Tensor]]
    distances: list[list[Tensor]]
    loss: Tensor


def snell_distance(a: Tensor, b: Tensor) -> Tensor:
    """d(a, b) = ‖a − b‖², the squared Euclidean distance (section 2.3)."""
    total = torch.zeros((), dtype=a.dtype)
    for i in range(len(a)):
        total = total + (a[i] - b[i]) ** 2
    return total


def snell_prototype(f: Encode, items: list[Tensor]) -> Tensor:
    """Equation 1: c_k = 1/|S_k| Σ_{(x_i, y_i) ∈ S_k} f(x_i)."""
    total = f(items[0])
    for x in items[1:]:
        total = total + f(x)
    return total / len(items)


def snell_task(
    f: Encode, support_x: Tensor, support_y: Tensor, ways: int, query_x: Tensor, query_y: Tensor
) -> SnellTask:
    """One task: prototypes, equation 2 in logarithms, and the loss J of Algorithm 1."""
    prototypes = []
    for k in range(ways):
        members = [support_x[i] for i in range(len(support_x)) if int(support_y[i]) == k]
        prototypes.append(snell_prototype(f, members))
    log_probabilities, distances = [], []
    loss = torch.zeros((), dtype=prototypes[0].dtype)
    for j in range(len(query_x)):
        z = f(query_x[j])
        d = [snell_distance(z, prototypes[k]) for k in range(ways)]
        total = torch.zeros((), dtype=z.dtype)
        for k in range(ways):
            total = total + torch.exp(-d[k])
        distances.append(d)
        log_probabilities.append([torch.log(torch.exp(-d[k]) / total) for k in range(ways)])
        loss = loss + (d[int(query_y[j])] + torch.log(total)) / len(query_x)
    return SnellTask(log_probabilities, distances, loss)


def snell(
    f: Encode, support_x: Tensor, support_y: Tensor, ways: int, query_x: Tensor, query_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances [T, Q, N], log-probabilities [T, Q, N] and mean loss of T tasks, each as above."""
    tasks = [
        snell_task(f, support_x[t], support_y[t], ways, query_x[t], query_y[t]) for t in range(len(support_x))
    ]
    distances = torch.stack([torch.stack([torch.stack(row) for row in task.distances]) for task in tasks])
    log_probabilities = torch.stack(
        [torch.stack([torch.stack(row) for row in task.log_probabilities]) for task in tasks]
    )
    loss = tasks[0].loss
    for task in tasks[1:]:
        loss = loss + task.loss
    return distances, log_probabilities, loss / len(tasks)
