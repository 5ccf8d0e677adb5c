"""BD-CSPN of Liu et al. 2020, derived again: equation by equation, one item at a time."""

import math

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def scores(
    shots: np.ndarray,
    y: np.ndarray,
    ways: int,
    queries: np.ndarray,
    sharpness: float = 10.0,
    confident: int | None = 8,
) -> np.ndarray:
    x = [v / math.sqrt(float(v @ v)) for v in shots]
    q = [v / math.sqrt(float(v @ v)) for v in queries]
    basic = [
        sum(v for v, k in zip(x, y, strict=True) if k == n) / sum(1 for k in y if k == n) for n in range(ways)
    ]
    shift = sum(x) / len(x) - sum(q) / len(q)  # cross-class bias
    q = [v + shift for v in q]
    pseudo = [max(range(ways), key=lambda n: cosine(v, basic[n])) for v in q]
    rectified = []
    for n in range(ways):
        own = [v for v, k in zip(x, y, strict=True) if k == n]
        ranked = sorted(
            (v for v, k in zip(q, pseudo, strict=True) if k == n), key=lambda v: -cosine(v, basic[n])
        )
        own += ranked if confident is None else ranked[:confident]
        weights = [math.exp(sharpness * cosine(v, basic[n])) for v in own]
        rectified.append(sum(w * v for w, v in zip(weights, own, strict=True)) / sum(weights))
    return np.array([[sharpness * cosine(v, p) for p in rectified] for v in q])
