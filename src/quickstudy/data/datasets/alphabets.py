"""The within-alphabet 20-way one-shot task of Lake and of Koch.

Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: "Human-level concept learning through probabilistic
program induction", Science 2015. Gregory Koch, Richard Zemel, Ruslan Salakhutdinov: "Siamese Neural Networks
for One-shot Image Recognition", ICML Deep Learning Workshop 2015, §4.3.
"""

from typing import Any

import numpy as np
import torch

from quickstudy.core.episode import Episode, Support
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool, Index

WAYS = 20


def alphabet_of(name: str) -> str:
    """`Greek` of Greek/character07, and `Greek/rot090` of Greek/character07/rot090: a group of classes."""
    alphabet, _, *turned = name.split("/")
    return "/".join([alphabet, *turned])


class WithinAlphabets:
    """An endless, repeatable sequence of runs of 20 one-shot trials each, for `evaluate`.

    A run is a task: an alphabet, 20 of its characters, two of its drawers. The 20 characters of one drawer
    are the support, those of the other the queries, in another random order. Runs go round the alphabets in
    turn: the first 20 on the 20 alphabets of Omniglot's evaluation set are 400 trials, and further ones are
    new draws. Run i is a pure function of the pool, `seed` and i.

    Args:
        pool: classes named ALPHABET/CHARACTER, item j of each by drawer j of its alphabet, such as
            `omniglot(split="lake", rotations=False).split("test")`.
        tasks: T, runs in a meta-batch; makes no difference to the runs.
        seed: any non-negative integer.
        device: where the tensors are wanted.

    Raises:
        ValueError: if a class name has no alphabet or more than one slash, an alphabet has fewer than 20
            characters, or the classes have unequal numbers of items, or only one.

    Departures: Koch holds out ten alphabets, not twenty, takes each of them twice, and draws from four
    drawers by whom there is no training picture. Lake's twenty runs are fixed; these are drawn.
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
        """What figures are labelled with: those of other 20-way 1-shot tasks are not comparable."""
        return f"{WAYS}w1s within alphabets"

    def on(self, device: torch.device | str) -> "WithinAlphabets":
        """The same runs on another device."""
        return WithinAlphabets(self.pool, self.tasks, self.seed, device)

    def __getitem__(self, i: int) -> Episode:
        """Meta-batch i, of T runs."""
        return self.part(i)

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """The runs of meta-batch i that fall to process `rank` of `world`: every world-th."""
        runs = range(i * self.tasks + rank, (i + 1) * self.tasks, world)
        drawn = np.asarray([self._draw(run) for run in runs], np.int64).reshape(-1, 2, 2, WAYS)
        index, y = drawn[:, 0], drawn[:, 1]
        items = self.pool.items[np.take_along_axis(index, y, 2)]
        x, labels = floats(torch.from_numpy(items).to(self.device)), torch.from_numpy(y).to(self.device)
        return Episode(Support(x[:, 0], labels[:, 0], WAYS), x[:, 1], labels[:, 1])

    def summary(self) -> dict[str, Any]:
        """What makes these runs what they are, for a manifest."""
        pool = self.pool.summary() | {"digest": self.pool.content_digest()}
        return {"pool": pool, "setting": self.setting, "tasks": self.tasks, "seed": self.seed}

    def indices(self, run: int) -> Index:
        """[2, 20] indices into the pool's items of a run: a row a drawer, a column a character."""
        return self._draw(run)[0]

    def _draw(self, run: int) -> tuple[Index, Index]:
        """The indices, and [2, 20] the order, another for each drawer, in which the characters come."""
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
    """Items of each class."""
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
