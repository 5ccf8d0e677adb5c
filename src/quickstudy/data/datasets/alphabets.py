"""The within-alphabet 20-way one-shot task of Lake and of Koch.

Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: "Human-level concept learning through probabilistic
program induction", Science 2015. Gregory Koch, Richard Zemel, Ruslan Salakhutdinov: "Siamese Neural Networks
for One-shot Image Recognition", ICML Deep Learning Workshop 2015, §4.3.
"""

from typing import Any

import numpy as np
import torch

from quickstudy.core.arrays import IntArray
from quickstudy.core.episode import Episode, Support
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool

WAYS = 20


def alphabet_of(name: str) -> str:
    """Group of an Omniglot class: its alphabet and, if it is rotated, the rotation.

    Args:
        name: Name of the class, such as Greek/character07 or Greek/character07/rot090.

    Returns:
        Name of the group, such as Greek or Greek/rot090.
    """
    alphabet, _, *turned = name.split("/")
    return "/".join([alphabet, *turned])


class WithinAlphabets:
    """An endless, reproducible sequence of runs of 20 one-shot trials each, for `evaluate`.

    A run is a task: 20 characters of one alphabet, by two of its drawers. The 20 characters of one drawer are
    the support, those of the other drawer the queries, in another random order. Runs go through the alphabets
    in turn: the first 20 runs on the 20 alphabets of Omniglot's evaluation set are 400 trials, and further
    runs are new draws. Run i depends only on the pool, `seed` and i.

    Args:
        pool: Data set with classes named ALPHABET/CHARACTER and item j of each class by drawer j of its
            alphabet, such as `omniglot(split="lake", rotations=False).split("test")`.
        tasks: Number of runs in a meta-batch, T; the runs do not depend on it.
        seed: Seed of the random draws, at least 0.
        device: Device of the returned tensors.

    Raises:
        ValueError: If a class name has no alphabet or more than one slash, an alphabet has fewer than 20
            characters, or the classes have unequal numbers of items, or only one.

    Departures: Koch holds out ten alphabets instead of twenty, uses each twice, and draws from four drawers
    who are not in the training set. Lake's twenty runs are fixed; these are drawn at random.
    """

    def __init__(
        self, pool: ClassPool, tasks: int = 1, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        if tasks < 1 or seed < 0:
            raise ValueError(f"tasks is {tasks} and seed {seed}: tasks must be at least 1, seed at least 0")
        self._characters = list(_alphabets(pool).values())
        self._drawers = _drawers(pool)
        self.pool, self.tasks, self.seed, self.device = pool, tasks, seed, device

    @property
    def setting(self) -> str:
        """Label of the results: those of other 20-way 1-shot tasks are not comparable."""
        return f"{WAYS}w1s within alphabets"

    def on(self, device: torch.device | str) -> "WithinAlphabets":
        """The same runs on another device.

        Args:
            device: Device of the returned tensors.
        """
        return WithinAlphabets(self.pool, self.tasks, self.seed, device)

    def __getitem__(self, i: int) -> Episode:
        """Meta-batch i, an episode of T runs."""
        return self.part(i)

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """The runs of meta-batch i for one of several processes: every `world`-th run from `rank` on.

        Args:
            i: Index of the meta-batch, at least 0.
            rank: Index of this process, 0 … world − 1.
            world: Number of processes.
        """
        runs = range(i * self.tasks + rank, (i + 1) * self.tasks, world)
        drawn = np.asarray([self._draw(run) for run in runs], np.int64).reshape(-1, 2, 2, WAYS)
        index, y = drawn[:, 0], drawn[:, 1]
        items = self.pool.items[np.take_along_axis(index, y, 2)]
        x = floats(torch.from_numpy(items).to(self.device))
        labels = torch.from_numpy(y).to(self.device)
        return Episode(Support(x[:, 0], labels[:, 0], WAYS), x[:, 1], labels[:, 1])

    def summary(self) -> dict[str, Any]:
        """JSON-serializable description for a manifest, equal for equal runs."""
        pool = self.pool.summary() | {"digest": self.pool.content_digest()}
        return {"pool": pool, "setting": self.setting, "tasks": self.tasks, "seed": self.seed}

    def indices(self, run: int) -> IntArray:
        """Indices [2, 20] of the items of a run in the pool, one row per drawer, one column per character.

        Args:
            run: Index of the run, at least 0.
        """
        return self._draw(run)[0]

    def _draw(self, run: int) -> tuple[IntArray, IntArray]:
        """Draw the indices [2, 20] of a run, and the random order [2, 20] of the characters by drawer."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(run,)))
        characters = rng.choice(self._characters[run % len(self._characters)], WAYS, replace=False)
        drawers = rng.choice(self._drawers, 2, replace=False)
        orders = rng.permuted(np.tile(np.arange(WAYS), (2, 1)), axis=1)
        return self.pool.starts[characters] + drawers[:, None], orders


def _alphabets(pool: ClassPool) -> dict[str, list[int]]:
    """The classes of each alphabet."""
    classes: dict[str, list[int]] = {}
    for i, name in enumerate(pool.classes):
        alphabet, *rest = name.split("/")
        if len(rest) != 1:
            raise ValueError(
                f"class {name!r} of {pool.name} is not named ALPHABET/CHARACTER: load Omniglot with "
                "split='lake' and rotations=False"
            )
        classes.setdefault(alphabet, []).append(i)
    if not classes:
        raise ValueError(f"{pool.name} has no classes: bring some alphabets of at least {WAYS} characters")
    for alphabet, found in classes.items():
        if len(found) < WAYS:
            raise ValueError(
                f"alphabet {alphabet!r} of {pool.name} has {len(found)} characters, and a run takes {WAYS}: "
                "leave it out with pool.subset"
            )
    return classes


def _drawers(pool: ClassPool) -> int:
    """Number of drawers, which is the number of items of each class."""
    count = int(pool.counts[0])
    unequal = np.flatnonzero(pool.counts != count)
    if len(unequal):
        i = int(unequal[0])
        raise ValueError(
            f"class {pool.classes[i]!r} of {pool.name} has {pool.counts[i]} items and {pool.classes[0]!r} "
            f"{count}: item j must be by drawer j in every class; leave incomplete classes out"
        )
    if count < 2:
        raise ValueError(
            f"the classes of {pool.name} have {count} items: it takes two drawers, for support and query"
        )
    return count
