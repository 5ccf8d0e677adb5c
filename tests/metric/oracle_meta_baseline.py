"""Meta-Baseline of Chen et al. 2021, derived again: one task, one query and one class at a time."""

from collections.abc import Callable

import torch
from torch import Tensor


def chen(
    encoder: Callable[[Tensor], Tensor],
    support_x: Tensor,
    support_y: Tensor,
    ways: int,
    query_x: Tensor,
    query_y: Tensor,
    temperature: Tensor,
) -> tuple[Tensor, Tensor]:
    """Scores [T, Q, N], and the meta-loss."""
    scores, total = [], torch.zeros((), dtype=torch.float64)
    for t in range(len(query_x)):
        shots = [encoder(item) for item in support_x[t]]
        for q, item in enumerate(query_x[t]):
            z, row = encoder(item), []
            for k in range(ways):
                members = [s for s, label in zip(shots, support_y[t].tolist(), strict=True) if label == k]
                mean = sum(members) / len(members)
                row.append(temperature * (z @ mean) / torch.sqrt((z @ z) * (mean @ mean)))
            scores.append(torch.stack(row))
            chances = scores[-1].exp() / scores[-1].exp().sum()
            total = total - torch.log(chances[query_y[t, q]])
    return torch.stack(scores).view(*query_x.shape[:2], ways), total / query_y.numel()
