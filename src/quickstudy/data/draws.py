"""Random choices of whole numbers, of all tasks at once."""

from typing import Any

import numpy as np
import numpy.typing as npt

from quickstudy.core.arrays import IntArray


def apportioned(shares: npt.NDArray[np.float64], total: int, most: IntArray) -> IntArray:
    """Whole numbers nearly in the proportion of shares: rounded down, and the largest remainders up.

    Where a class has fewer items than it should give, it gives all, and the others make up for it in their
    proportion.

    Args:
        shares: [T, N] shares of the classes, each row of sum 1.
        total: Sum of the numbers of each row, at most that of `most`.
        most: [T, N] the largest number of each class.

    Returns:
        [T, N] numbers ≥ 0, int64.
    """
    shares = np.maximum(shares, 1e-12)  # so that a class can make up for others
    full = np.zeros(shares.shape, bool)
    while True:
        left = total - np.where(full, most, 0).sum(1, keepdims=True)
        open_shares = np.where(full, 0, shares)
        wanted = left * open_shares / np.maximum(open_shares.sum(1, keepdims=True), 1e-300)
        numbers = np.floor(wanted).astype(np.int64)
        rank = np.argsort(np.argsort(np.where(full, np.inf, numbers - wanted), axis=1, kind="stable"), axis=1)
        numbers += rank < left - numbers.sum(1, keepdims=True)
        numbers = np.where(full, most, numbers)
        over = numbers > most
        if not over.any():
            return numbers
        full |= over


def distinct(rng: np.random.Generator, n: npt.NDArray[Any], m: int) -> IntArray:
    """Draw m distinct integers below each n, with every ordered choice equally likely.

    If m is small compared with n, draw with replacement and redraw the rows with a repeated number (by
    symmetry the result is uniform). Otherwise sort random keys, whose time and memory grow with n.

    Args:
        rng: Random generator.
        n: [...] exclusive upper bounds, each at least m.
        m: Number of integers to draw below each bound.

    Returns:
        Integers [..., m] in 0 … n − 1, int64.
    """
    if m == 0 or not n.size:
        return np.empty((*n.shape, m), dtype=np.int64)
    if n.min() <= 4 * m * m:
        keys = rng.random((*n.shape, int(n.max())), dtype=np.float32)
        keys[np.arange(keys.shape[-1]) >= n[..., None]] = 2.0  # never among the m least
        if keys.shape[-1] < 8 * m:
            return np.argsort(keys, axis=-1)[..., :m]
        return of_least(keys, m)
    drawn = rng.integers(0, n[..., None], (*n.shape, m))
    while (again := (np.diff(np.sort(drawn, axis=-1)) == 0).any(-1)).any():
        drawn[again] = rng.integers(0, n[again][:, None], (int(again.sum()), m))
    return drawn


def of_least(keys: npt.NDArray[np.float32], m: int) -> IntArray:
    """Places of the least keys, from the least on, without sorting the rest.

    Args:
        keys: [..., n] random keys.
        m: Number of places, at least 1.

    Returns:
        Places [..., m] in 0 … n − 1, int64.
    """
    least = np.partition(keys, m - 1, axis=-1)[..., :m]
    places = np.flatnonzero(keys <= least[..., -1:]) % keys.shape[-1]
    if places.size == least.size:
        places = places.reshape(least.shape)
        least = np.take_along_axis(keys, places, -1)
        order = np.argsort(least, axis=-1)
        if np.diff(np.take_along_axis(least, order, -1), axis=-1).all():
            return np.take_along_axis(places, order, -1)
    places = np.argpartition(keys, m - 1, axis=-1)[..., :m]  # with equal keys, in the order of this one
    order = np.argsort(np.take_along_axis(keys, places, -1), axis=-1)
    return np.take_along_axis(places, order, -1)
