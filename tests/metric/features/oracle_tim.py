"""TIM-GD of Boudiaf et al. 2020 and transductive fine-tuning of Dhillon et al. 2020, derived again.

One task, its gradient by hand, one item at a time; Adam as Kingma & Ba 2015 write it.
"""

import math
from collections.abc import Callable

import numpy as np


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def logits(v: np.ndarray, w: np.ndarray, sharpness: float) -> list[float]:
    return [-sharpness / 2 * float((v - c) @ (v - c)) for c in w]


def to_weights(v: np.ndarray, w: np.ndarray, sharpness: float, of_logits: list[float]) -> np.ndarray:
    """Gradient by the weights, by that of the logits of an item."""
    return np.stack([g * sharpness * (v - c) for g, c in zip(of_logits, w, strict=True)])


def gradient(
    x: list[np.ndarray],
    y: np.ndarray,
    q: list[np.ndarray],
    w: np.ndarray,
    sharpness: float,
    weights: tuple[float, float, float],
) -> np.ndarray:
    cross_entropy, marginal, conditional = weights
    total = np.zeros_like(w)
    for v, k in zip(x, y, strict=True):
        p = softmax(logits(v, w, sharpness))
        of_logits = [cross_entropy / len(x) * (p[n] - (n == k)) for n in range(len(w))]
        total += to_weights(v, w, sharpness, of_logits)
    predicted = [softmax(logits(v, w, sharpness)) for v in q]
    mean = [sum(p[n] for p in predicted) / len(q) for n in range(len(w))]
    for v, p in zip(q, predicted, strict=True):
        # by the probabilities: of the entropy of the mean, and of that of the query
        of_p = [
            marginal / len(q) * (math.log(mean[n]) + 1) - conditional / len(q) * (math.log(p[n]) + 1)
            for n in range(len(w))
        ]
        inner = sum(a * b for a, b in zip(p, of_p, strict=True))
        total += to_weights(v, w, sharpness, [p[n] * (of_p[n] - inner) for n in range(len(w))])
    return total


def adam(w: np.ndarray, slope: Callable[[np.ndarray], np.ndarray], steps: int, rate: float) -> np.ndarray:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, steps + 1):
        g = slope(w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def scores(
    shots: np.ndarray,
    y: np.ndarray,
    ways: int,
    queries: np.ndarray,
    steps: int = 1000,
    rate: float = 1e-4,
    weights: tuple[float, float, float] = (0.1, 1.0, 0.1),
) -> np.ndarray:
    x = [v / math.sqrt(float(v @ v)) for v in shots]
    q = [v / math.sqrt(float(v @ v)) for v in queries]
    start = np.stack([
        sum(v for v, k in zip(x, y, strict=True) if k == n) / sum(1 for k in y if k == n) for n in range(ways)
    ])  # fmt: skip
    w = adam(start, lambda w: gradient(x, y, q, w, 15.0, weights), steps, rate)
    return np.array([logits(v, w, 15.0) for v in q])
