"""Small pools of classes."""

from collections.abc import Sequence

import numpy as np

from quickstudy.data.pool import ClassPool


def coded_pool(counts: Sequence[int]) -> ClassPool:
    """Item j of class c is the 2×2 picture [[c, j], [255 − c, 7]]."""
    items = [[[c, j], [255 - c, 7]] for c, count in enumerate(counts) for j in range(count)]
    return ClassPool.from_grouped(
        np.asarray(items, dtype=np.uint8)[:, None],
        [f"class{c}" for c in range(len(counts))],
        counts,
        name="coded",
    )


def noisy_pool(classes: int = 12, seed: int = 0) -> ClassPool:
    """Classes are coarse 16×16 patterns, items the pattern under noise."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (classes, 1, 1, 4, 4)).repeat(4, axis=-1).repeat(4, axis=-2)
    items = 0.4 * patterns + 0.6 * rng.integers(0, 256, (classes, 8, 1, 16, 16))
    names = [f"class {i}" for i in range(classes)]
    return ClassPool.from_grouped(items.astype(np.uint8).reshape(-1, 1, 16, 16), names, [8] * classes)
