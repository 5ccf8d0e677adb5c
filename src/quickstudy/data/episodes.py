"""Drawing episodes from a ClassPool by index arithmetic."""

import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quickstudy.core.episode import Episode, Support
from quickstudy.data.augment.images import Augment
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool, Index, described
from quickstudy.data.setting import Labels, Setting


class Episodes:
    """An endless, repeatable sequence of meta-batches.

    `episodes[i]` is a pure function of the pool, the setting, `tasks`, `seed` and i. Its items are float32:
    pictures in [0, 1], clips in [−1, 1). Within a task all classes and all items are distinct, so support,
    query and unlabelled items never overlap; and each of these three is in random order, so that nothing can
    be told from an item's position. All T tasks are drawn by array arithmetic and one gather.

    Args:
        pool: where classes and items come from.
        setting: size of each task.
        tasks: T, tasks in a meta-batch.
        seed: any non-negative integer.
        device: where the tensors are wanted; items travel there as bytes.
        labels: which items bear labels; all by default.
        augment: changes the items of each task at random, such as `Affine()`; nothing does by default.
        group: from the name of a class to that of its group, such as `alphabet_of`: then all classes of a
            task are of one group, so that what is alike is told apart. The chance of a group is in proportion
            to its classes; those with fewer than a task takes never come up.
        apart: support and queries of a task come from different sources, such as speakers: all queries from
            one that is drawn for the task, all support items from others. Every source with enough classes is
            as likely, and then every class with enough items both of it and of others. Other classes
            never come up.
        augment_classes: changes each class of a task in a way of its own, all its items alike, and so makes
            another class of it, such as `Speed()` of a speaker somebody with a higher voice. It takes
            [N, B, ...] items of N classes; then comes `augment`. Distractors stay as they are.

    Raises:
        ValueError: if the pool has too few classes for the ways, or a class too few items for the shots
            and queries; names them. If `apart` meets a pool without sources, or one of `labels`, `group` and
            unlabelled items.
    """

    def __init__(
        self,
        pool: ClassPool,
        setting: Setting,
        tasks: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        labels: Labels | None = None,
        augment: Augment | None = None,
        group: Callable[[str], str] | None = None,
        apart: bool = False,
        augment_classes: Augment | None = None,
    ) -> None:
        if tasks < 1 or seed < 0:
            raise ValueError(f"tasks is {tasks} and seed {seed}: tasks must be at least 1, seed at least 0")
        self.pool, self.setting, self.tasks, self.seed, self.device = pool, setting, tasks, seed, device
        self.labels, self.augment, self.group, self.apart = labels, augment, group, apart
        self.augment_classes = augment_classes
        if apart and (labels or group or setting.unlabelled):
            raise ValueError(
                "apart does not go with labels, group or unlabelled items: leave out one of them"
            )
        if labels:
            self._order, self._labelled = labels.order(pool.counts)
            self._firsts = np.cumsum(pool.counts) - pool.counts  # of each class, in that order
        if not apart:
            _check(pool, setting, self._labelled if labels else None)
        self._groups = _groups(pool, group, setting.ways + setting.distractors)
        self._sources = _Sources(pool, setting) if apart else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of read-only arrays: we only read
            self._items = torch.from_numpy(pool.items).flatten(1)

    def on(self, device: torch.device | str) -> "Episodes":
        """The same episodes on another device."""
        return Episodes(
            self.pool,
            self.setting,
            self.tasks,
            self.seed,
            device,
            labels=self.labels,
            augment=self.augment,
            group=self.group,
            apart=self.apart,
            augment_classes=self.augment_classes,
        )

    def __getitem__(self, i: int) -> Episode:
        """Meta-batch i, of T tasks."""
        return self.part(i)

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """The tasks of meta-batch i that fall to process `rank` of `world`: every world-th task.

        All processes draw the same indices, so they see the same meta-batch however many they are.
        """
        s = self.setting
        index, others, *orders = (torch.from_numpy(drawn[rank::world]) for drawn in self._draw(i))
        tasks = len(index)
        # all items in one gather, the parts one after the other so that each is contiguous
        parts = [part.flatten(1) for part in index.split([s.shots, s.queries, s.unlabelled], -1)]
        parts[2] = torch.cat([parts[2], others.flatten(1)], 1)
        if not self.augment_classes:  # which needs the items class by class
            parts = [part.gather(1, order) for part, order in zip(parts, orders, strict=True)]
        items = self._gather(torch.cat([part.flatten() for part in parts]))
        split = [
            x.view(*part.shape, *x.shape[1:])
            for x, part in zip(items.split([part.numel() for part in parts]), parts, strict=True)
        ]
        if tasks and (self.augment or self.augment_classes):
            sources = [
                np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(i, task)))
                for task in range(rank, self.tasks, world)
            ]
            if self.augment_classes:
                split = self._as_other_classes(self.augment_classes, split, sources)
                task = torch.arange(tasks).unsqueeze(1)
                split = [x[task, order] for x, order in zip(split, orders, strict=True)]
            if self.augment:
                split = [_changed(self.augment, x, sources) for x in split]
        support, query, unlabelled = split
        y, asked = (
            order.to(self.device) // n for order, n in zip(orders, (s.shots, s.queries), strict=False)
        )
        return Episode(Support(support, y, s.ways, unlabelled), query, asked)

    def indices(self, i: int) -> Index:
        """[T, N, shots + queries + unlabelled] indices into the pool's items of meta-batch i, by class."""
        return self._draw(i)[0]

    def unlabelled_y(self, i: int) -> Tensor:
        """[T, U] classes of the unlabelled items of meta-batch i, N and more for distractors.

        For pictures and tests: no learner is shown them.
        """
        *_, order = self._draw(i)
        return torch.from_numpy(order // max(1, self.setting.unlabelled))

    def summary(self) -> dict[str, Any]:
        """What makes these episodes what they are, for a manifest: JSON-able, equal if the draws are."""
        return {
            "pool": self.pool.summary() | {"digest": self.pool.content_digest()},
            "setting": asdict(self.setting),
            "labels": self.labels and asdict(self.labels),
            "augment": described(self.augment),
            "augment_classes": described(self.augment_classes),
            "group": described(self.group),
            "apart": self.apart,
            "tasks": self.tasks,
            "seed": self.seed,
        }

    def _draw(self, i: int) -> tuple[Index, Index, Index, Index, Index]:
        """The indices; those of the distractors, [T, distractors, unlabelled]; and the orders.

        An order [T, items] tells of each place of the support, the queries or the unlabelled items which of
        those class by class, the distractors last, stands there.
        """
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(i,)))
        s, counts = self.setting, self.pool.counts
        if self._sources:
            items = self._sources.draw(rng, self.tasks)
            return items, np.empty((self.tasks, 0, 0), np.int64), *self._orders(rng)
        classes = self._classes(rng)
        of_task, others = np.split(classes, [s.ways], -1)
        if self.labels:
            seen = distinct(rng, self._labelled[of_task], s.shots + s.queries)
            drawn = np.concatenate([seen, self._unlabelled(rng, of_task)], -1)
            away = self._unlabelled(rng, others)
        else:
            drawn = distinct(rng, counts[of_task], s.items)
            away = distinct(rng, counts[others], s.unlabelled)
        return self._items_at(of_task, drawn), self._items_at(others, away), *self._orders(rng)

    def _orders(self, rng: np.random.Generator) -> tuple[Index, Index, Index]:
        """Orders [T, S], [T, Q] and [T, U] of the support, the queries and the unlabelled items."""
        s = self.setting
        sizes = (s.ways * s.shots, s.ways * s.queries, (s.ways + s.distractors) * s.unlabelled)
        of_support, of_queries, of_others = (
            rng.permuted(np.tile(np.arange(n), (self.tasks, 1)), axis=1) for n in sizes
        )
        return of_support, of_queries, of_others

    def _classes(self, rng: np.random.Generator) -> Index:
        """[T, N + distractors] classes of each task."""
        number = self.setting.ways + self.setting.distractors
        if not self.group:
            return distinct(rng, np.full(self.tasks, len(self.pool)), number)
        members, sizes = self._groups
        which = rng.choice(len(sizes), self.tasks, p=sizes / sizes.sum())
        return members[which[:, None], distinct(rng, sizes[which], number)]

    def _unlabelled(self, rng: np.random.Generator, classes: Index) -> Index:
        """Places [..., unlabelled] among those of the items without labels."""
        labelled = self._labelled[classes]
        drawn = distinct(rng, self.pool.counts[classes] - labelled, self.setting.unlabelled)
        return labelled[..., None] + drawn

    def _items_at(self, classes: Index, places: Index) -> Index:
        """Indices of items by their class and place in it; where labels count, those with one come first."""
        if self.labels:
            places = self._order[self._firsts[classes][..., None] + places]
        return self.pool.starts[classes][..., None] + places

    def _as_other_classes(
        self, change: Augment, parts: list[Tensor], sources: list[np.random.Generator]
    ) -> list[Tensor]:
        """Support, query and unlabelled items, each class changed alike in all three."""
        s = self.setting
        each = [s.shots, s.queries, s.unlabelled]
        own = [x[:, : s.ways * n].unflatten(1, (s.ways, n)) for x, n in zip(parts, each, strict=True)]
        changed = _changed(change, torch.cat(own, 2), sources).split(each, 2)
        return [
            torch.cat([x.flatten(1, 2), part[:, s.ways * n :]], 1)
            for x, part, n in zip(changed, parts, each, strict=True)
        ]

    def _gather(self, index: Tensor) -> Tensor:
        """[B] indices to [B, ...] floats; they travel to the device as they are in the pool."""
        flat = self._items.index_select(0, index).to(self.device, non_blocking=True)
        return floats(flat).view(-1, *self.pool.items.shape[1:])


class _Sources:
    """Tasks whose queries all come from one source, and their support items from others.

    The items of each class are put in order of their source, so that those of one source are a block.
    """

    def __init__(self, pool: ClassPool, setting: Setting) -> None:
        if pool.sources is None:
            raise ValueError(
                f"{pool.name} does not say what its items come from, so they can't be kept apart by it: "
                "bring a pool with sources"
            )
        self._pool, self._setting = pool, setting
        of_class = np.repeat(np.arange(len(pool)), pool.counts)
        items = pool.indices
        source = pool.sources[items]
        self._order = items[np.lexsort((source, of_class))]
        self._firsts = np.cumsum(pool.counts) - pool.counts  # of each class, in that order
        self._counts = np.zeros((len(pool), len(pool.source_names)), np.int64)
        np.add.at(self._counts, (of_class, source), 1)
        enough = self._counts >= setting.queries
        enough &= pool.counts[:, None] - self._counts >= setting.shots
        self._usable = np.flatnonzero(enough.sum(0) >= setting.ways)
        if not len(self._usable):
            heard = [pool.source_names[q] for q in np.flatnonzero(self._counts.sum(0)).tolist()]
            raise ValueError(
                f"{pool.name} can't be kept apart by its {len(heard)} sources ({', '.join(heard[:5])}): "
                f"none has {setting.queries} queries of {setting.ways} classes each, of which others have "
                f"{setting.shots} shots; lower ways, queries or shots, or bring more sources"
            )
        self._members = _padded([np.flatnonzero(enough[:, q]).tolist() for q in self._usable])

    def draw(self, rng: np.random.Generator, tasks: int) -> Index:
        """[T, N, shots + queries] indices into the pool's items."""
        s, (members, sizes) = self._setting, self._members
        which = rng.integers(0, len(sizes), tasks)
        classes = members[which[:, None], distinct(rng, sizes[which], s.ways)]
        source = self._usable[which][:, None]
        theirs = self._counts[classes, source]  # [T, N] items of the source, after `before` of other ones
        before = (np.cumsum(self._counts, 1) - self._counts)[classes, source]
        queries = before[..., None] + distinct(rng, theirs, s.queries)
        support = distinct(rng, self._pool.counts[classes] - theirs, s.shots)
        support += np.where(support >= before[..., None], theirs[..., None], 0)  # step over the block
        return self._order[self._firsts[classes][..., None] + np.concatenate([support, queries], -1)]


def _changed(augment: Augment, x: Tensor, sources: list[np.random.Generator]) -> Tensor:
    """The items of T tasks, each task's changed by its own source of randomness."""
    return torch.stack([augment(of_task, rng) for of_task, rng in zip(x, sources, strict=True)])


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
    if m == 0 or not n.size:
        return np.empty((*n.shape, m), dtype=np.int64)
    if n.min() <= 4 * m * m:
        keys = rng.random((*n.shape, int(n.max())), dtype=np.float32)
        keys[np.arange(keys.shape[-1]) >= n[..., None]] = 2.0  # never among the m least
        return np.argsort(keys, axis=-1)[..., :m]
    drawn = rng.integers(0, n[..., None], (*n.shape, m))
    while (again := (np.diff(np.sort(drawn, axis=-1)) == 0).any(-1)).any():
        drawn[again] = rng.integers(0, n[again][:, None], (int(again.sum()), m))
    return drawn


def _groups(pool: ClassPool, group: Callable[[str], str] | None, least: int) -> tuple[Index, Index]:
    """The classes of each group that has enough [G, most], padded with −1, and their numbers [G]."""
    members: dict[str, list[int]] = {}
    for i, name in enumerate(pool.classes if group else ()):
        members.setdefault(group(name) if group else "", []).append(i)
    kept = [m for m in members.values() if len(m) >= least]
    if group and not kept:
        largest = max(members, key=lambda name: len(members[name]))
        raise ValueError(
            f"no group of {pool.name} has the {least} classes that a task takes: the largest, {largest!r}, "
            f"has {len(members[largest])}; ask for fewer ways"
        )
    return _padded(kept)


def _padded(members: list[list[int]]) -> tuple[Index, Index]:
    """Lists as rows [G, most], padded with −1, and their lengths [G]."""
    sizes = np.asarray([len(m) for m in members], np.int64)
    padded = np.full((len(members), int(sizes.max(initial=0))), -1, np.int64)
    for row, m in zip(padded, members, strict=True):
        row[: len(m)] = m
    return padded, sizes


def _check(pool: ClassPool, setting: Setting, labelled: Index | None) -> None:
    classes = setting.ways + setting.distractors
    if classes > len(pool):
        wanted = f"{setting.ways} ways" + f" and {setting.distractors} distractors" * bool(
            setting.distractors
        )
        raise ValueError(
            f"{wanted}, but {pool.name} has {len(pool)} classes: "
            f"ask for at most {len(pool)} ways or bring more classes"
        )
    if labelled is None:
        _check_items(pool, pool.counts, setting.items, setting, "")
    else:
        _check_items(pool, labelled, setting.items - setting.unlabelled, setting, " with labels")
        _check_items(pool, pool.counts - labelled, setting.unlabelled, setting, " without labels")


def _check_items(pool: ClassPool, counts: Index, least: int, setting: Setting, kind: str) -> None:
    small = np.flatnonzero(counts < least)
    if len(small):
        named = ", ".join(f"{pool.classes[i]!r} ({counts[i]})" for i in small[:5].tolist())
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise ValueError(
            f"{len(small)} of {len(pool)} classes of {pool.name} have fewer than the {least} items{kind} "
            f"that {setting.shots} shots + {setting.queries} queries"
            + (f" + {setting.unlabelled} unlabelled" if setting.unlabelled else "")
            + f" take: {named}{more}; lower shots or queries, or leave these classes out"
        )
