"""Embeddings to calibrate and to score pairs of."""

import math

import numpy as np


def cloud(identities: int, items: int, seed: int = 0, noise: float = 0.6, dimensions: int = 8):
    """Items scattered around a point of each identity: [I, D] and [I]."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(identities), items)
    centres = rng.normal(size=(identities, dimensions))
    return centres[who] + noise * rng.normal(size=(len(who), dimensions)), who


def energy_of(energy: str, a, b) -> float:
    if energy == "euclidean":
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    norms = [math.sqrt(sum(x * x for x in v)) for v in (a, b)]
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / norms[0] / norms[1]
