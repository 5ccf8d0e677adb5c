"""Oracle of R2-D2: the equations of the paper, literally and slowly."""

import math

import torch
from torch import Tensor

from tests.support.oracles import Encode


# Bertinetto, Henriques, Torr, Vedaldi 2019: "Meta-learning with differentiable closed-form solvers"
def normal_equations(x: list[Tensor], y: list[list[float]], penalty: Tensor) -> list[list[Tensor]]:
    """The primal problem: W of (XᵀX + λI) W = XᵀY, by elimination; no Woodbury identity, no solver."""
    dimensions, ways = len(x[0]), len(y[0])
    left = [[sum_of([z[a] * z[b] for z in x]) for b in range(dimensions)] for a in range(dimensions)]
    right = [
        [sum_of([x[s][a] * y[s][k] for s in range(len(x))]) for k in range(ways)] for a in range(dimensions)
    ]
    for a in range(dimensions):
        left[a][a] = left[a][a] + penalty
    for a in range(dimensions):
        for below in range(a + 1, dimensions):
            factor = left[below][a] / left[a][a]
            left[below] = [left[below][b] - factor * left[a][b] for b in range(dimensions)]
            right[below] = [right[below][k] - factor * right[a][k] for k in range(ways)]
    w: list[list[Tensor]] = [[] for _ in range(dimensions)]
    for a in reversed(range(dimensions)):
        for k in range(ways):
            known = sum_of([left[a][b] * w[b][k] for b in range(a + 1, dimensions)])
            w[a].append((right[a][k] - known) / left[a][a])
    return w


def sum_of(terms: list[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for term in terms:
        total = total + term
    return total


def bertinetto(
    f: Encode,
    support_x: Tensor,
    support_y: Tensor,
    ways: int,
    query_x: Tensor,
    query_y: Tensor,
    penalty: Tensor,
    scale: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scores α [f(q), 1]ᵀ w_k + β, [T, Q, N], and the cross-entropy averaged over the queries of all tasks.

    The support has a column of ones, too; it and the labels are divided by √(N K), as in the authors' code.
    """
    scores, losses = [], []
    for t in range(len(support_x)):
        root = math.sqrt(len(support_x[t]))
        one = torch.ones(1, dtype=torch.float64)
        x = [torch.cat([f(item), one]) / root for item in support_x[t]]
        y = [[(1.0 if int(label) == k else 0.0) / root for k in range(ways)] for label in support_y[t]]
        w = normal_equations(x, y, penalty)
        rows = []
        for q in range(len(query_x[t])):
            z = torch.cat([f(query_x[t][q]), one])
            row = []
            for k in range(ways):
                row.append(scale * sum_of([z[d] * w[d][k] for d in range(len(z))]) + bias)
            losses.append(torch.log(sum_of([torch.exp(s) for s in row])) - row[int(query_y[t][q])])
            rows.append(torch.stack(row))
        scores.append(torch.stack(rows))
    return torch.stack(scores), sum_of(losses) / len(losses)
