"""Labelled batches from a ClassPool, by index arithmetic: ordinary classification of all its classes."""

from typing import Any

import numpy as np
import torch

from quickstudy.core.arguments import check_whole, checked_class
from quickstudy.core.arrays import IntArray
from quickstudy.core.episode import LabelledBatch
from quickstudy.core.wording import plural
from quickstudy.data.augment.augment import Augment
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool, described
from quickstudy.data.stored import stored


@checked_class
class LabelledBatches:
    """An endless, reproducible sequence of labelled batches, for `PlainClassifier`.

    `batches[i]` depends only on the arguments below and i. The items of all classes are put into a random
    order, anew for each epoch, and the batches are consecutive slices of these orders. So each item comes
    once in each epoch; where an epoch is not a whole number of batches, one batch holds the end of an epoch
    and the beginning of the next. Items are float32: images in [0, 1], clips in [−1, 1),
    those of a float32 pool as they are.

    Args:
        pool: Data set whose classes are learned, numbered in its order.
        batch_size: Number B of items in a batch.
        seed: Seed of the random draws, at least 0.
        device: Device of the returned tensors; items are transferred to it as stored in the pool, such as
            uint8.
        augment: Random augmentation of the items of a batch, such as `RandomHorizontalFlip()`; it is given
            the whole batch, [B, ...]. None for no augmentation.

    Raises:
        ValueError: If the batch size or the seed is too small, or the pool has fewer than two classes.
    """

    def __init__(
        self,
        pool: ClassPool,
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        augment: Augment | None = None,
    ) -> None:
        if batch_size < 1 or seed < 0:
            raise ValueError(
                f"batch_size is {batch_size} and seed {seed}: batch_size must be at least 1, seed at least 0"
            )
        if len(pool) < 2 or not pool.counts.sum():
            raise ValueError(
                f"{pool.name} has {plural(len(pool), 'class')} and {plural(int(pool.counts.sum()), 'item')}: "
                "telling apart takes two classes with items"
            )
        self.pool, self.batch_size, self.seed, self.device = pool, batch_size, seed, device
        self.augment = augment
        self._index = pool.indices
        self._class = np.repeat(np.arange(len(pool)), pool.counts)
        self._drawn = -1, self._index  # the last epoch, and its order
        self._stored = stored(pool.items, "cpu")

    @property
    def tasks(self) -> int:
        """Number B of items in a batch, which processes share; for `fit`, as each item has its own loss."""
        return self.batch_size

    def on(self, device: torch.device | str) -> "LabelledBatches":
        """The same batches on another device.

        Args:
            device: Device of the returned tensors.
        """
        return LabelledBatches(self.pool, self.batch_size, self.seed, device, self.augment)

    def __getitem__(self, i: int) -> LabelledBatch:
        """Batch i, whole."""
        return self.part(i)

    def part(self, i: int, rank: int = 0, world: int = 1) -> LabelledBatch:
        """The items of batch i for one of several processes: every `world`-th item from `rank` on.

        All processes draw and augment the whole batch, so it does not depend on their number.

        Args:
            i: Index of the batch, at least 0.
            rank: Index of this process, 0 … world − 1.
            world: Number of processes.
        """
        check_whole(0, i=i)
        places = self.places(i)
        index = torch.from_numpy(self._index[places])
        flat = self._stored.take(index).to(self.device, non_blocking=True)
        x = floats(flat).view(-1, *self.pool.items.shape[1:])
        if self.augment:
            x = self.augment(x, self._rng(1, i))
        y = torch.from_numpy(self._class[places]).to(self.device)
        return LabelledBatch(x[rank::world], y[rank::world], len(self.pool))

    def places(self, i: int) -> IntArray:
        """Places [B] of the items of batch i among all items of all classes, which lie class by class.

        Args:
            i: Index of the batch, at least 0.
        """
        n = len(self._index)
        numbers = np.arange(i * self.batch_size, (i + 1) * self.batch_size)
        epochs = range(int(numbers[0]) // n, int(numbers[-1]) // n + 1)
        return np.concatenate([self._order(e)[numbers[numbers // n == e] % n] for e in epochs])

    def summary(self) -> dict[str, Any]:
        """JSON-serializable description for a manifest, equal for batches with equal draws."""
        return {
            "pool": self.pool.summary() | {"digest": self.pool.content_digest()},
            "batch_size": self.batch_size,
            "augment": described(self.augment),
            "seed": self.seed,
        }

    def _order(self, epoch: int) -> IntArray:
        """Random order of all items in an epoch; that of the last one asked for is kept."""
        if self._drawn[0] != epoch:
            self._drawn = epoch, self._rng(0, epoch).permutation(len(self._index))
        return self._drawn[1]

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
