"""SimpleShot of Wang et al. 2019 and the nearest cosine, derived again: one query and one class at a time."""

import math

import numpy as np


def length(v: np.ndarray) -> float:
    return math.sqrt(sum(float(a) ** 2 for a in v))


def means(z: np.ndarray, y: np.ndarray, ways: int) -> list[np.ndarray]:
    return [
        sum(z[i] for i in range(len(z)) if y[i] == k) / sum(1 for label in y if label == k)
        for k in range(ways)
    ]


def l2n(shots: np.ndarray, y: np.ndarray, ways: int, queries: np.ndarray) -> np.ndarray:
    z = np.stack([v / length(v) for v in shots])
    q = np.stack([v / length(v) for v in queries])
    return un(z, y, ways, q)


def un(shots: np.ndarray, y: np.ndarray, ways: int, queries: np.ndarray) -> np.ndarray:
    c = means(shots, y, ways)
    return np.array([[-(length(q - c[k]) ** 2) for k in range(ways)] for q in queries])


def cl2n(
    shots: np.ndarray, y: np.ndarray, ways: int, queries: np.ndarray, mean: np.ndarray | None = None
) -> np.ndarray:
    middle = sum(shots) / len(shots) if mean is None else mean
    return l2n(shots - middle, y, ways, queries - middle)


def cosine(shots: np.ndarray, y: np.ndarray, ways: int, queries: np.ndarray) -> np.ndarray:
    c = means(shots, y, ways)
    return np.array(
        [[10 * float(q @ c[k]) / (length(q) * length(c[k])) for k in range(ways)] for q in queries]
    )
