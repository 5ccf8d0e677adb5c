"""Drawing episodes from a ClassPool by index arithmetic."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quickstudy.data.pool import ClassPool, Index
from quickstudy.episode import Episode, Support


@dataclass(frozen=True)
class Setting:
    """The size of a task: `Setting(5, 1)` is "5-way 1-shot", 5w1s for short.

    Args:
        ways: N, classes.
        shots: support items a class.
        queries: query items a class.
        unlabelled: unlabelled items a class.
    """

    ways: int
    shots: int
    queries: int = 15
    unlabelled: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, least in (("ways", 2), ("shots", 1), ("queries", 1), ("unlabelled", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")

    def __str__(self) -> str:
        """`5w1s`."""
        return f"{self.ways}w{self.shots}s"

    @property
    def items(self) -> int:
        """Items of each class that a task needs."""
        return self.shots + self.queries + self.unlabelled


class Episodes:
    """An endless, repeatable sequence of meta-batches.

    `episodes[i]` is a pure function of the pool, the setting, `tasks`, `seed` and i. Its items are float32
    in [0, 1]. Within a task all classes and all items are distinct, so support, query and unlabelled
    items never overlap. All T tasks are drawn by array arithmetic and one gather.

    Args:
        pool: where classes and items come from.
        setting: size of each task.
        tasks: T, tasks in a meta-batch.
        seed: any non-negative integer.
        device: where the tensors are wanted; items travel there as bytes.

    Raises:
        ValueError: if the pool has too few classes for the ways, or a class too few items for the shots
            and queries; names them.
    """

    def __init__(
        self,
        pool: ClassPool,
        setting: Setting,
        tasks: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if tasks < 1 or seed < 0:
            raise ValueError(f"tasks is {tasks} and seed {seed}: tasks must be at least 1, seed at least 0")
        _check(pool, setting)
        self.pool, self.setting, self.tasks, self.seed, self.device = pool, setting, tasks, seed, device
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of read-only arrays: we only read
            self._items = torch.from_numpy(pool.items).flatten(1)
        self._labels = {
            n: torch.arange(setting.ways, device=device).repeat_interleave(n).expand(tasks, -1)
            for n in (setting.shots, setting.queries)
        }

    def on(self, device: torch.device | str) -> "Episodes":
        """The same episodes on another device."""
        return Episodes(self.pool, self.setting, self.tasks, self.seed, device)

    def __getitem__(self, i: int) -> Episode:
        """Meta-batch i, of T tasks."""
        return self.part(i)

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """The tasks of meta-batch i that fall to process `rank` of `world`: every world-th task.

        All processes draw the same indices, so they see the same meta-batch however many they are.
        """
        s = self.setting
        index = torch.from_numpy(self.indices(i)[rank::world])  # [T, N, items]
        tasks = len(index)
        # all items in one gather, the parts one after the other so that each is contiguous
        parts = [part.flatten() for part in index.split([s.shots, s.queries, s.unlabelled], -1)]
        items = self._gather(torch.cat(parts)).split([len(part) for part in parts])
        support, query, unlabelled = (
            x.view(tasks, s.ways * n, *x.shape[1:])
            for x, n in zip(items, (s.shots, s.queries, s.unlabelled), strict=True)
        )
        labels = self._labels
        return Episode(
            Support(support, labels[s.shots][:tasks], s.ways, unlabelled), query, labels[s.queries][:tasks]
        )

    def indices(self, i: int) -> Index:
        """[T, N, shots + queries + unlabelled] indices into the pool's items of meta-batch i."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(i,)))
        s = self.setting
        classes = distinct(rng, np.full(self.tasks, len(self.pool)), s.ways)
        return self.pool.starts[classes][..., None] + distinct(rng, self.pool.counts[classes], s.items)

    def _gather(self, index: Tensor) -> Tensor:
        """[B] indices to [B, C, H, W] floats in [0, 1]; they travel to the device as bytes."""
        flat = self._items.index_select(0, index).to(self.device, non_blocking=True)
        return floats(flat).view(-1, *self.pool.items.shape[1:])


def floats(items: Tensor) -> Tensor:
    """Bytes 0 … 255 as float32 in [0, 1]: what encoders take."""
    return items.to(torch.float32).mul_(1 / 255)


def distinct(rng: np.random.Generator, n: npt.NDArray[Any], m: int) -> Index:
    """Draw m distinct numbers below each n, every ordered choice equally likely.

    Where m is small beside n, draw with replacement and redraw the rows that hold a number twice (by
    symmetry what remains is uniform); else sort random keys, which would cost time and memory
    in proportion to n.

    Args:
        rng: source of randomness.
        n: [...] upper bounds (exclusive), each ≥ m.
        m: how many.

    Returns:
        [..., m] int64.
    """
    if m == 0:
        return np.empty((*n.shape, 0), dtype=np.int64)
    if n.min() <= 4 * m * m:
        keys = rng.random((*n.shape, int(n.max())), dtype=np.float32)
        keys[np.arange(keys.shape[-1]) >= n[..., None]] = 2.0  # never among the m least
        return np.argsort(keys, axis=-1)[..., :m]
    drawn = rng.integers(0, n[..., None], (*n.shape, m))
    while (again := (np.diff(np.sort(drawn, axis=-1)) == 0).any(-1)).any():
        drawn[again] = rng.integers(0, n[again][:, None], (int(again.sum()), m))
    return drawn


def _check(pool: ClassPool, setting: Setting) -> None:
    if setting.ways > len(pool):
        raise ValueError(
            f"{setting.ways} ways, but {pool.name} has {len(pool)} classes: "
            f"ask for at most {len(pool)} ways or bring more classes"
        )
    small = np.flatnonzero(pool.counts < setting.items)
    if len(small):
        named = ", ".join(f"{pool.classes[i]!r} ({pool.counts[i]})" for i in small[:5].tolist())
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise ValueError(
            f"{len(small)} of {len(pool)} classes of {pool.name} have fewer than the {setting.items} items "
            f"that {setting.shots} shots + {setting.queries} queries"
            + (f" + {setting.unlabelled} unlabelled" if setting.unlabelled else "")
            + f" take: {named}{more}; lower shots or queries, or leave these classes out"
        )
