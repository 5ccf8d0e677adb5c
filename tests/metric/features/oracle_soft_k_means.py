"""Soft k-means of Ren et al. 2018 with the queries unlabelled, derived again: one item at a time."""

import math

import numpy as np

from tests.metric.features.oracle_tim import softmax


def scores(shots: np.ndarray, y: np.ndarray, ways: int, queries: np.ndarray, steps: int = 1) -> np.ndarray:
    x = [v / math.sqrt(float(v @ v)) for v in shots]
    q = [v / math.sqrt(float(v @ v)) for v in queries]
    means = [
        sum(v for v, k in zip(x, y, strict=True) if k == n) / sum(1 for k in y if k == n) for n in range(ways)
    ]
    for _ in range(steps):
        shares = [softmax([-15 * float((v - m) @ (v - m)) for m in means]) for v in q]
        means = [
            (
                sum(v for v, k in zip(x, y, strict=True) if k == n)
                + sum(s[n] * v for s, v in zip(shares, q, strict=True))
            )
            / (sum(1 for k in y if k == n) + sum(s[n] for s in shares))
            for n in range(ways)
        ]
    return np.array([[-15 * float((v - m) @ (v - m)) for m in means] for v in q])
