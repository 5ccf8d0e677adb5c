"""MetaOptNet's support vector machine, derived again: one task at a time, by projected gradient steps."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Array = np.ndarray


def nearest(point: Array, own: int, cost: float) -> Array:
    """The point nearest to a row of numbers whose sum is 0, the own one ≤ C and the others ≤ 0."""
    bound = np.zeros(len(point))
    bound[own] = cost
    away = bound - point  # must become ≥ 0, with the sum C: the projection on a simplex
    falling = np.sort(away)[::-1]
    for count in range(len(point), 0, -1):
        shift = (falling[:count].sum() - cost) / count
        if falling[count - 1] > shift:
            break
    return bound - np.maximum(away - shift, 0)


def dual(z: Array, y: Array, ways: int, cost: float, ridge: float) -> Array:
    """α [S, N], by projected gradient steps with momentum, until nothing moves."""
    matrix = z @ z.T + ridge * np.eye(len(z))
    largest, least = np.linalg.eigvalsh(matrix)[[-1, 0]]
    momentum = (np.sqrt(largest) - np.sqrt(least)) / (np.sqrt(largest) + np.sqrt(least))
    target = np.eye(ways)[y]
    alpha = ahead = np.zeros((len(z), ways))
    for _ in range(20_000):
        tried = ahead - (matrix @ ahead - target) / largest
        new = np.stack([nearest(row, own, cost) for row, own in zip(tried, y, strict=True)])
        ahead = new + momentum * (new - alpha)
        moved, alpha = np.abs(new - alpha).max(), new
        if moved < 1e-15 * cost:
            break
    return alpha


def lee(
    encoder: Callable[[Tensor], Tensor],
    support_x: Tensor,
    support_y: Tensor,
    ways: int,
    query_x: Tensor,
    query_y: Tensor,
    cost: float,
    ridge: float,
    scale: float,
) -> tuple[Tensor, float]:
    """Scores [T, Q, N], and the meta-loss."""
    scores, total = torch.zeros(*query_x.shape[:2], ways, dtype=torch.float64), 0.0
    for t in range(len(query_x)):
        z = np.stack([encoder(item).detach().numpy() for item in support_x[t]])
        alpha = dual(z, support_y[t].numpy(), ways, cost, ridge)
        for q, item in enumerate(query_x[t]):
            query = encoder(item).detach().numpy()
            for k in range(ways):
                weight = sum(alpha[s, k] * z[s] for s in range(len(z)))
                scores[t, q, k] = scale * float(weight @ query)
            total += float(F.cross_entropy(scores[t, q], query_y[t, q]))
    return scores, total / query_y.numel()
