"""FEAT of Ye et al. 2020, derived again: one task, class and pair of items at a time, no dropout."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def attended(items: list[Tensor], w: Weights) -> list[Tensor]:
    """Each item, with what it sees of all added, normalized over its numbers."""
    made = []
    for item in items:
        query = w["query.weight"] @ item
        exact = torch.stack([query @ (w["key.weight"] @ other) for other in items]) / math.sqrt(len(item))
        share = exact.exp() / exact.exp().sum()
        seen = sum(a * (w["value.weight"] @ other) for a, other in zip(share, items, strict=True))
        v = item + w["output.weight"] @ seen + w["output.bias"]
        centered = v - v.mean()
        v = centered / torch.sqrt((centered * centered).mean() + 1e-5)
        made.append(v * w["norm.weight"] + w["norm.bias"])
    return made


def log_probability(z: Tensor, centers: list[Tensor], temperature: float, label: int) -> Tensor:
    logits = torch.stack([-((z - c) ** 2).sum() / temperature for c in centers])
    return logits[label] - torch.log(logits.exp().sum())


def ye(
    encoder: Callable[[Tensor], Tensor],
    w: Weights,
    support_x: Tensor,
    support_y: Tensor,
    ways: int,
    query_x: Tensor,
    query_y: Tensor,
    temperatures: tuple[float, float],
    balance: float,
) -> tuple[Tensor, Tensor]:
    """Scores [T, Q, N], and the meta-loss."""
    scores, losses, auxiliary = [], [], []
    for t in range(len(query_x)):
        shots, queries = ([encoder(item) for item in x[t]] for x in (support_x, query_x))
        of_class = [
            [z for z, label in zip(shots, support_y[t].tolist(), strict=True) if label == k]
            for k in range(ways)
        ]
        adapted = attended([sum(members) / len(members) for members in of_class], w)
        scores.append(
            torch.stack(
                [torch.stack([-((q - c) ** 2).sum() / temperatures[0] for c in adapted]) for q in queries]
            )
        )
        for z, label in zip(queries, query_y[t].tolist(), strict=True):
            losses.append(-log_probability(z, adapted, temperatures[0], label))
        labels = support_y[t].tolist() + query_y[t].tolist()
        everything = shots + queries
        centers = []
        for k in range(ways):
            members = attended([z for z, label in zip(everything, labels, strict=True) if label == k], w)
            centers.append(sum(members) / len(members))
        for z, label in zip(everything, labels, strict=True):
            auxiliary.append(-log_probability(z, centers, temperatures[1], label))
    return torch.stack(scores), sum(losses) / len(losses) + balance * sum(auxiliary) / len(auxiliary)
