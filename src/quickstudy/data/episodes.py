"""Drawing episodes from a ClassPool by index arithmetic."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quickstudy.core.arguments import check_whole, checked_class
from quickstudy.core.arrays import IntArray
from quickstudy.core.episode import Episode, Support
from quickstudy.core.errors import WrongTypeError
from quickstudy.core.wording import plural
from quickstudy.data.augment.augment import Augment
from quickstudy.data.draws import apportioned, distinct
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool, described
from quickstudy.data.setting import LabelFraction, Setting, Size
from quickstudy.data.stored import Stored, stored


class Drawn(NamedTuple):
    """What `Episodes` draws for a meta-batch."""

    classes: IntArray
    """Classes [T, N] in the pool."""
    items: IntArray
    """Indices [T, N, shots + queries + unlabelled] of their items, −1 where a class has fewer queries."""
    others: IntArray
    """Indices [T, distractors, unlabelled] of the distractors' items."""
    support: IntArray
    """Order [T, S] of the support items, which are numbered class by class."""
    queries: IntArray
    """Order [T, Q] of the query items, alike."""
    unlabelled: IntArray
    """Order [T, U] of the unlabelled items, alike, with the distractors last."""


@checked_class
class Episodes:
    """An endless, reproducible sequence of meta-batches.

    `episodes[i]` depends only on the arguments below and i. Its items are float32: images in [0, 1], clips in
    [−1, 1), those of a float32 pool as they are. Within a task all classes and all items are distinct, so
    support, query and unlabelled items never overlap. Each of these three is in random order, so an item's
    position says nothing about its class. All T tasks are drawn by array arithmetic and one gather.

    Args:
        pool: Data set that classes and items are drawn from.
        setting: Size of each task; `size(i)` says that of the tasks of meta-batch i.
        tasks: Number of tasks in a meta-batch, T.
        seed: Seed of the random draws, at least 0.
        device: Device of the returned tensors. On an accelerator the items of the pool, as it stores them
            (such as uint8), are kept in its memory if they take at most half of what is free when the first
            meta-batch is drawn; otherwise those of each meta-batch are transferred.
        labels: Choice of the labelled items; None if all items are labelled.
        augment: Random augmentation of the items of a task, such as `RandomAffine()`. It is given the
            support, query and unlabelled items in turn, as [B, ...] of any classes. None for no augmentation.
        group: Function from the name of a class to the name of its group, such as `alphabet_of`. All classes
            of a task are then of one group, which makes them harder to tell apart. A group is drawn with a
            probability proportional to its number of classes; groups with fewer classes than a task needs are
            never drawn. None to draw from all classes.
        cross_source: Whether support and query items of a task come from different sources, such as speakers.
            All queries come from one source, drawn for the task, and all support items from others. Sources
            with enough classes are equally likely, and so are then the classes with enough items both of that
            source and of others; other classes are never drawn.
        augment_classes: Random augmentation that turns each class of a task into another class, such as
            `Speed()`, which raises or lowers a speaker's voice. It is given [N, B, ...] items of N classes
            and decides itself which of them share a random draw. It comes before `augment`; distractors
            stay unchanged. None for no augmentation.

    Raises:
        ValueError: If the pool has too few classes for the ways, or a class has too few items for shots and
            queries (the message names it); or if `cross_source` is used with a pool without sources, or
            together with `labels`, `group`, unlabelled items or sizes that are drawn; or if the setting has
            a `dirichlet` and there are `cross_source`, `labels` or `augment_classes`.
    """

    def __init__(
        self,
        pool: ClassPool,
        setting: Setting,
        tasks: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
        labels: LabelFraction | None = None,
        augment: Augment | None = None,
        group: Callable[[str], str] | None = None,
        cross_source: bool = False,
        augment_classes: Augment | None = None,
    ) -> None:
        if tasks < 1 or seed < 0:
            raise ValueError(f"tasks is {tasks} and seed {seed}: tasks must be at least 1, seed at least 0")
        if not isinstance(pool, ClassPool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongTypeError(
                f"the pool is a {type(pool).__name__}: bring items and labels into a pool, "
                "ClassPool.from_arrays(x, y), or load a folder, image_folders(…)"
            )
        if not isinstance(setting, Setting):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise WrongTypeError(f"the setting is {setting!r}: give Setting(ways, shots, queries)")
        self.pool, self.setting, self.tasks, self.seed, self.device = pool, setting, tasks, seed, device
        self.labels, self.augment, self.group, self.cross_source = labels, augment, group, cross_source
        self.augment_classes = augment_classes
        if cross_source and (labels or group or setting.unlabelled or setting.drawn):
            raise ValueError(
                "cross_source does not go with labels, group, unlabelled items or sizes that are drawn: "
                "leave out one of them"
            )
        if setting.dirichlet and (cross_source or labels or augment_classes):
            raise ValueError(
                f"dirichlet is {setting.dirichlet:g}, which does not go with cross_source, labels or "
                "augment_classes: leave out one of them"
            )
        if labels:
            self._order, self._labelled = labels.order(pool.counts)
            self._firsts = np.cumsum(pool.counts) - pool.counts  # where each class begins in `_order`
        if not cross_source:
            _check(pool, setting, self._labelled if labels else None)
        self._groups = _groups(pool, group, setting.most.ways + setting.distractors)
        self._sources = _Sources(pool, setting) if cross_source else None
        self._names = np.array(pool.classes, object)
        self._last: tuple[int, Drawn] | None = None  # `evaluate` asks for what was drawn, too
        self._stored: Stored | None = None  # not before they are needed: on an accelerator they are copied

    def on(self, device: torch.device | str) -> "Episodes":
        """The same episodes on another device.

        Args:
            device: Device of the returned tensors.
        """
        return Episodes(
            self.pool,
            self.setting,
            self.tasks,
            self.seed,
            device,
            labels=self.labels,
            augment=self.augment,
            group=self.group,
            cross_source=self.cross_source,
            augment_classes=self.augment_classes,
        )

    def __getitem__(self, i: int) -> Episode:
        """Meta-batch i, an episode of T tasks."""
        return self.part(i)

    def part(self, i: int, rank: int = 0, world: int = 1) -> Episode:
        """The tasks of meta-batch i for one of several processes: every `world`-th task from `rank` on.

        All processes draw the same indices, so the meta-batch does not depend on their number.

        Args:
            i: Index of the meta-batch, at least 0.
            rank: Index of this process, 0 … world − 1.
            world: Number of processes.
        """
        check_whole(0, i=i)
        s = self.size(i)
        drawn = self._draw(i)
        index, others, *orders = (torch.from_numpy(part[rank::world]) for part in drawn[1:])
        tasks = len(index)
        # one gather for all items; the parts follow one another, so each of them is contiguous
        parts = [
            part.flatten(1) for part in index.tensor_split([s.shots, index.shape[-1] - s.unlabelled], -1)
        ]
        parts[2] = torch.cat([parts[2], others.flatten(1)], 1)
        of_query = torch.arange(s.ways * s.queries).expand(tasks, -1) // s.queries  # the class of each
        if self.setting.dirichlet:
            there = parts[1] >= 0
            place = torch.arange(parts[1].shape[1]).expand(tasks, -1) // (index.shape[-1] - s.shots)
            parts[1], of_query = (part[there].view(tasks, -1) for part in (parts[1], place))
        if not self.augment_classes:  # it needs the items class by class, so they are shuffled after it
            parts = [part.gather(1, order) for part, order in zip(parts, orders, strict=True)]
        items = self._gather(torch.cat([part.flatten() for part in parts]))
        split = [
            x.view(*part.shape, *x.shape[1:])
            for x, part in zip(items.split([part.numel() for part in parts]), parts, strict=True)
        ]
        if tasks and (self.augment or self.augment_classes):
            rngs = [
                np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(i, task)))
                for task in range(rank, self.tasks, world)
            ]
            if self.augment_classes:
                split = _as_other_classes(self.augment_classes, s, split, rngs)
                task = torch.arange(tasks).unsqueeze(1)
                split = [x[task, order] for x, order in zip(split, orders, strict=True)]
            if self.augment:
                split = [_changed(self.augment, x, rngs) for x in split]
        support, query, unlabelled = split
        support_y = orders[0].to(self.device) // s.shots
        query_y = of_query.gather(1, orders[1]).to(self.device)
        names = None if self.augment_classes else self._names[drawn.classes[rank::world]]
        return Episode(Support(support, support_y, s.ways, unlabelled, names), query, query_y)

    def size(self, i: int) -> Size:
        """Size of the tasks of meta-batch i: that of the setting, with what it leaves to be drawn.

        Args:
            i: Index of the meta-batch, at least 0.
        """
        if not self.setting.drawn:
            return self.setting.most
        # a task's own random numbers have a key below the number of tasks
        return self.setting.of_one(
            np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(i, self.tasks)))
        )

    def indices(self, i: int) -> IntArray:
        """Indices [T, N, shots + queries + unlabelled] of the items of meta-batch i in the pool, by class.

        Where classes have unequally many queries, there are as many as the most of a class, and −1 for those
        that another has less.

        Args:
            i: Index of the meta-batch, at least 0.
        """
        return self._draw(i).items

    def query_items(self, i: int) -> IntArray:
        """Indices [T, Q] in the pool of the query items of meta-batch i, in their order.

        Args:
            i: Index of the meta-batch, at least 0.
        """
        s, drawn = self.size(i), self._draw(i)
        queries = drawn.items[:, :, s.shots : drawn.items.shape[-1] - s.unlabelled]
        queries = queries[queries >= 0].reshape(self.tasks, -1)
        return np.take_along_axis(queries, drawn.queries, 1)

    def unlabelled_y(self, i: int) -> Tensor:
        """Classes [T, U] of the unlabelled items of meta-batch i; N and above for distractors.

        For plots and tests only: no learner sees them.

        Args:
            i: Index of the meta-batch, at least 0.
        """
        return torch.from_numpy(self._draw(i).unlabelled // max(1, self.setting.unlabelled))

    def summary(self) -> dict[str, Any]:
        """JSON-serializable description for a manifest, equal for episodes with equal draws."""
        return {
            "pool": self.pool.summary() | {"digest": self.pool.content_digest()},
            "setting": self.setting.as_dict(),
            "labels": self.labels and asdict(self.labels),
            "augment": described(self.augment),
            "augment_classes": described(self.augment_classes),
            "group": described(self.group),
            "cross_source": self.cross_source,
            "tasks": self.tasks,
            "seed": self.seed,
        }

    def _draw(self, i: int) -> Drawn:
        """Draw meta-batch i, or take it from before if it is the last one."""
        last = self._last
        if last is None or last[0] != i:
            self._last = last = i, self._drawn(i)
        return last[1]

    def _drawn(self, i: int) -> Drawn:
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(i,)))
        s, counts = self.size(i), self.pool.counts
        if self._sources:
            classes, items = self._sources.draw(rng, self.tasks)
            return Drawn(classes, items, np.empty((self.tasks, 0, 0), np.int64), *self._orders(rng, s))
        classes = self._classes(rng, s.ways + s.distractors)
        of_task, others = np.split(classes, [s.ways], -1)
        if self.labels:
            seen = distinct(rng, self._labelled[of_task], s.shots + s.queries)
            drawn = np.concatenate([seen, self._unlabelled(rng, of_task)], -1)
            away = self._unlabelled(rng, others)
        elif self.setting.dirichlet:
            drawn, away = self._unequal(rng, of_task, s, self.setting.dirichlet), others[..., None][..., :0]
        else:
            drawn = distinct(rng, counts[of_task], s.shots + s.queries + s.unlabelled)
            away = distinct(rng, counts[others], s.unlabelled)
        items = np.where(drawn < 0, -1, self._items_at(of_task, drawn))
        return Drawn(of_task, items, self._items_at(others, away), *self._orders(rng, s))

    def _unequal(self, rng: np.random.Generator, classes: IntArray, s: Size, alpha: float) -> IntArray:
        """Draw positions [T, N, shots + most] within classes [T, N], −1 beyond the queries of a class."""
        counts = self.pool.counts[classes]
        shares = rng.dirichlet(np.full(s.ways, alpha), self.tasks)
        queries = apportioned(shares, s.ways * s.queries, counts - s.shots)
        drawn = distinct(rng, counts, s.shots + int(queries.max()))
        drawn[np.arange(drawn.shape[-1]) >= s.shots + queries[..., None]] = -1
        return drawn

    def _orders(self, rng: np.random.Generator, s: Size) -> tuple[IntArray, IntArray, IntArray]:
        """Random orders [T, S], [T, Q] and [T, U] of the support, query and unlabelled items.

        Each order is a permutation of the items of its kind, which are numbered class by class with the
        distractors last.
        """

        def order(n: int) -> IntArray:
            return rng.permuted(np.tile(np.arange(n), (self.tasks, 1)), axis=1)

        support = order(s.ways * s.shots)
        queries = order(s.ways * s.queries)
        unlabelled = order((s.ways + s.distractors) * s.unlabelled)
        return support, queries, unlabelled

    def _classes(self, rng: np.random.Generator, number: int) -> IntArray:
        """Draw the classes [T, N + distractors] of each task."""
        if not self.group:
            return distinct(rng, np.full(self.tasks, len(self.pool)), number)
        members, sizes = self._groups
        which = rng.choice(len(sizes), self.tasks, p=sizes / sizes.sum())
        return members[which[:, None], distinct(rng, sizes[which], number)]

    def _unlabelled(self, rng: np.random.Generator, classes: IntArray) -> IntArray:
        """Draw positions [..., unlabelled] of items without labels within their classes [...]."""
        labelled = self._labelled[classes]
        drawn = distinct(rng, self.pool.counts[classes] - labelled, self.setting.unlabelled)
        return labelled[..., None] + drawn

    def _items_at(self, classes: IntArray, places: IntArray) -> IntArray:
        """Indices of items in the pool by class and position in it; with `labels`, labelled ones first."""
        if self.labels:
            places = self._order[self._firsts[classes][..., None] + places]
        return self.pool.starts[classes][..., None] + places

    def _gather(self, index: Tensor) -> Tensor:
        """Items [B, ...] as floats, by their indices [B]; transferred to the device as stored in the pool."""
        if self._stored is None:
            self._stored = stored(self.pool.items, self.device)
        flat = self._stored.take(index).to(self.device, non_blocking=True)
        return floats(flat).view(-1, *self.pool.items.shape[1:])


class _Sources:
    """Draws tasks in which all queries come from one source and all support items from others.

    The items of each class are sorted by source, so the items of one source form a block.
    """

    def __init__(self, pool: ClassPool, setting: Setting) -> None:
        if pool.sources is None:
            raise ValueError(
                f"{pool.name} does not say what its items come from, so they can't be kept apart by it: "
                "bring a pool with sources"
            )
        self._pool, self._size = pool, setting.most  # no sizes are drawn
        of_class = np.repeat(np.arange(len(pool)), pool.counts)
        items = pool.indices
        source = pool.sources[items]
        self._order = items[np.lexsort((source, of_class))]
        self._firsts = np.cumsum(pool.counts) - pool.counts  # position in `_order` of each class's first item
        self._counts = np.zeros((len(pool), len(pool.source_names)), np.int64)
        np.add.at(self._counts, (of_class, source), 1)
        s = self._size
        enough = self._counts >= s.queries
        enough &= pool.counts[:, None] - self._counts >= s.shots
        self._usable = np.flatnonzero(enough.sum(0) >= s.ways)
        if not len(self._usable):
            heard = [pool.source_names[q] for q in np.flatnonzero(self._counts.sum(0)).tolist()]
            raise ValueError(
                f"{pool.name} can't be kept apart by its {plural(len(heard), 'source')} "
                f"({', '.join(heard[:5])}): "
                f"none has {s.queries} quer{'y' if s.queries == 1 else 'ies'} of {s.ways} "
                f"classes each, of which others have {plural(s.shots, 'shot')}; lower ways, queries "
                "or shots, or bring more sources"
            )
        self._members = _padded([np.flatnonzero(enough[:, q]).tolist() for q in self._usable])

    def draw(self, rng: np.random.Generator, tasks: int) -> tuple[IntArray, IntArray]:
        """Draw the classes [T, N] of some tasks, and the indices [T, N, shots + queries] of their items."""
        s, (members, sizes) = self._size, self._members
        which = rng.integers(0, len(sizes), tasks)
        classes = members[which[:, None], distinct(rng, sizes[which], s.ways)]
        source = self._usable[which][:, None]
        theirs = self._counts[classes, source]  # [T, N] number of items of the source; `before` precede them
        before = (np.cumsum(self._counts, 1) - self._counts)[classes, source]
        queries = before[..., None] + distinct(rng, theirs, s.queries)
        support = distinct(rng, self._pool.counts[classes] - theirs, s.shots)
        support += np.where(support >= before[..., None], theirs[..., None], 0)  # skip the source's block
        places = self._firsts[classes][..., None] + np.concatenate([support, queries], -1)
        return classes, self._order[places]


def _changed(augment: Augment, x: Tensor, rngs: list[np.random.Generator]) -> Tensor:
    """Augment the items of T tasks, each task with its own random generator."""
    return torch.stack([augment(of_task, rng) for of_task, rng in zip(x, rngs, strict=True)])


def _as_other_classes(
    change: Augment, s: Size, parts: list[Tensor], rngs: list[np.random.Generator]
) -> list[Tensor]:
    """Apply a change of classes to the support, query and unlabelled items of each class together."""
    each = [s.shots, s.queries, s.unlabelled]
    own = [x[:, : s.ways * n].unflatten(1, (s.ways, n)) for x, n in zip(parts, each, strict=True)]
    changed = _changed(change, torch.cat(own, 2), rngs).split(each, 2)
    return [
        torch.cat([x.flatten(1, 2), part[:, s.ways * n :]], 1)
        for x, part, n in zip(changed, parts, each, strict=True)
    ]


def _groups(pool: ClassPool, group: Callable[[str], str] | None, least: int) -> tuple[IntArray, IntArray]:
    """Classes [G, most] of each group with `least` classes or more, padded with −1; their numbers [G]."""
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


def _padded(members: list[list[int]]) -> tuple[IntArray, IntArray]:
    """Lists as rows [G, most], padded with −1, and their lengths [G]."""
    sizes = np.asarray([len(m) for m in members], np.int64)
    padded = np.full((len(members), int(sizes.max(initial=0))), -1, np.int64)
    for row, m in zip(padded, members, strict=True):
        row[: len(m)] = m
    return padded, sizes


def _check(pool: ClassPool, setting: Setting, labelled: IntArray | None) -> None:
    s = setting.most
    if s.ways + s.distractors > len(pool):
        wanted = f"{s.ways} ways"
        if s.distractors:
            wanted += f" and {plural(s.distractors, 'distractor')}"
        most = len(pool) - s.distractors
        fewer = f"ask for at most {most} ways or " if most >= 2 else ""
        raise ValueError(
            f"{wanted}, but {pool.name} has {plural(len(pool), 'class')}: {fewer}bring more classes"
        )
    if labelled is None:
        _check_items(pool, pool.counts, setting.items, setting, "")
    else:
        _check_items(pool, labelled, setting.items - s.unlabelled, setting, " with labels")
        _check_items(pool, pool.counts - labelled, s.unlabelled, setting, " without labels")


def _check_items(pool: ClassPool, counts: IntArray, least: int, setting: Setting, kind: str) -> None:
    small = np.flatnonzero(counts < least)
    if len(small):
        named = ", ".join(f"{pool.classes[i]!r} ({counts[i]})" for i in small[:5].tolist())
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        s = setting.most
        queries = s.queries if setting.together is None else setting.together - s.shots
        raise ValueError(
            f"{len(small)} of {plural(len(pool), 'class')} of {pool.name} "
            f"{'has' if len(small) == 1 else 'have'} fewer than the {plural(least, 'item')}{kind} that "
            f"{plural(s.shots, 'shot')} + {queries} quer{'y' if queries == 1 else 'ies'}"
            + (f" + {s.unlabelled} unlabelled" if s.unlabelled else "")
            + f" take: {named}{more}; lower shots or queries, or leave these classes out"
        )
