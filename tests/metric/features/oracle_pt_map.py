"""PT-MAP of Hu et al. 2021, derived again: one task, Sinkhorn's algorithm to its end, one entry at a time."""

import math

import numpy as np


def prepared(z: np.ndarray) -> list[np.ndarray]:
    powers = [np.array([math.sqrt(max(float(a), 0.0) + 1e-6) for a in v]) for v in z]
    unit = [v / math.sqrt(float(v @ v)) for v in powers]
    middle = sum(unit) / len(unit)
    return [(v - middle) / math.sqrt(float((v - middle) @ (v - middle))) for v in unit]


def plan(cost: np.ndarray, sharpness: float) -> np.ndarray:
    queries, ways = cost.shape
    p = np.exp(-sharpness * cost)
    p /= p.sum()
    for _ in range(100_000):
        before = p.copy()
        p = p / p.sum(1)[:, None]
        p = p * (queries / ways / p.sum(0))[None, :]
        if np.abs(p - before).max() < 1e-15:
            break
    return p


def scores(
    shots: np.ndarray, y: np.ndarray, ways: int, queries: np.ndarray, rate: float = 0.2, steps: int = 20
) -> np.ndarray:
    x, q = prepared(shots), prepared(queries)
    means = [
        sum(v for v, k in zip(x, y, strict=True) if k == n) / sum(1 for k in y if k == n) for n in range(ways)
    ]

    def assigned() -> np.ndarray:
        return plan(np.array([[float((v - m) @ (v - m)) for m in means] for v in q]), 10.0)

    for _ in range(steps):
        p = assigned()
        for n in range(ways):
            total = sum(v for v, k in zip(x, y, strict=True) if k == n) + sum(
                p[i, n] * v for i, v in enumerate(q)
            )
            weight = sum(1 for k in y if k == n) + sum(p[i, n] for i in range(len(q)))
            means[n] = means[n] + rate * (total / weight - means[n])
    return np.log(assigned())
