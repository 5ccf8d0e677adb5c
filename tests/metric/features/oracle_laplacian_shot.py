"""LaplacianShot of Ziko et al. 2020, derived again: one query and one class at a time."""

import math

import numpy as np

from tests.metric.features.oracle_bd_cspn import cosine
from tests.metric.features.oracle_tim import softmax


def scores(
    shots: np.ndarray,
    y: np.ndarray,
    ways: int,
    queries: np.ndarray,
    mean: np.ndarray | None = None,
    neighbors: int = 2,
    smoothness: float = 0.7,
) -> np.ndarray:
    middle = sum(shots) / len(shots) if mean is None else mean
    x = [(v - middle) / math.sqrt(float((v - middle) @ (v - middle))) for v in shots]
    q = [(v - middle) / math.sqrt(float((v - middle) @ (v - middle))) for v in queries]
    first = [
        sum(v for v, k in zip(x, y, strict=True) if k == n) / sum(1 for k in y if k == n) for n in range(ways)
    ]
    shift = sum(x) / len(x) - sum(q) / len(q)
    q = [v + shift for v in q]
    means = []
    for n in range(ways):
        own = [v for v in x + q if max(range(ways), key=lambda k: cosine(v, first[k])) == n]
        shares = [softmax([10 * cosine(v, m) for m in first])[n] for v in own]
        means.append(sum(s * v for s, v in zip(shares, own, strict=True)) / len(own) if own else first[n])
    cost = [[float((v - m) @ (v - m)) for m in means] for v in q]
    near = []
    for i, v in enumerate(q):
        others = sorted((float((v - p) @ (v - p)), j) for j, p in enumerate(q) if j != i)
        near.append([j for _, j in others[:neighbors]])
    assigned = [softmax([-a for a in row]) for row in cost]
    before = math.inf
    for i in range(20):
        pulls = [[sum(assigned[j][k] for j in of) for k in range(ways)] for of in near]
        assigned = [
            softmax([-a + smoothness * b for a, b in zip(row, pull, strict=True)])
            for row, pull in zip(cost, pulls, strict=True)
        ]
        bound = 0.0
        for row, own, of in zip(cost, assigned, near, strict=True):
            for k in range(ways):
                pull = sum(assigned[j][k] for j in of)
                bound += own[k] * (math.log(own[k]) + row[k] - smoothness * pull)
        if i > 1 and abs(bound - before) <= 1e-6 * abs(before):
            break
        before = bound
    return np.log(np.array(assigned))
