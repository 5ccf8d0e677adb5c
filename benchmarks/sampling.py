"""Sampling meta-batches of tasks: `Episodes` beside a DataLoader with an episodic batch sampler.

Both draw from the same decoded bytes, in one run, by turns. What few-shot code bases do: a batch sampler
draws the classes of a task and items of each, the data set makes a float tensor of each item, and the default
collation stacks them. What a good user of torch does: the data set has `__getitems__`, which takes the items
of a task, or of all tasks of a meta-batch, in one gather. Either is spared telling support from queries, and
labels from 0 to N − 1. With worker processes it has warmed up before it is timed; the fastest of all is the
peer that counts.

Freed memory is kept (`keep_freed_memory`) for both sides, as in a training from the command line; without,
what is measured of ours is mostly the system handing out the pages of 8 MB anew. A turn takes many batches,
since the first of a turn is several times as slow as the rest.
"""

import argparse
import random
import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.plain import characters
from benchmarks.rows import Row, write
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting

TASKS = 32
SETTING = Setting(5, 1, 15)
AHEAD = 8
"""Tasks taken from a loader before its turn is timed: more than its workers hold ready from before."""


class Items(Dataset[tuple[Tensor, int]]):
    """The items of a pool, one by one."""

    def __init__(self, pool: ClassPool) -> None:
        self.items = torch.from_numpy(pool.items)
        starts, counts = pool.starts.tolist(), pool.counts.tolist()
        self.of_class = [list(range(s, s + n)) for s, n in zip(starts, counts, strict=True)]
        self.labels = {i: label for label, items in enumerate(self.of_class) for i in items}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.items[i].float() / 255, self.labels[i]


class Gathered(Items):
    """The items of a pool, those of a batch in one gather."""

    def __init__(self, pool: ClassPool) -> None:
        super().__init__(pool)
        self.label_of = torch.tensor([self.labels.get(i, -1) for i in range(len(pool.items))])

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Items [B, …] and labels [B]."""
        index = torch.tensor(indices)
        return self.items[index].float() / 255, self.label_of[index]


class TaskSampler:
    """Endless batches of indices, of one task each, or of several."""

    def __init__(self, items: Items, setting: Setting, tasks: int = 1) -> None:
        self.items, self.setting, self.tasks = items, setting, tasks

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield [i for _ in range(self.tasks) for i in self._task()]

    def _task(self) -> list[int]:
        classes = random.sample(self.items.of_class, self.setting.ways)
        return [i for items in classes for i in random.sample(items, self.setting.items)]


def as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The collation of what is gathered already."""
    return batch


def seconds_of_ours(episodes: Episodes, turn: int, batches: int) -> float:
    """For a meta-batch, mean of `batches`."""
    started = time.perf_counter()
    for i in range(batches):
        episodes[turn * batches + i]
    return (time.perf_counter() - started) / batches


def seconds_of_loader(loader: Iterator[list[Tensor]], tasks: int, batches: int) -> float:
    """For as many tasks as a meta-batch has, mean of `batches`; the loader's batches have `tasks`."""
    for _ in range(AHEAD):
        next(loader)
    started = time.perf_counter()
    for _ in range(TASKS // tasks * batches):
        next(loader)
    return (time.perf_counter() - started) / batches


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side")
    parser.add_argument("--batches", type=int, default=25, help="meta-batches a turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_freed_memory()
    random.seed(options.seed)
    pool = characters()
    episodes, items = Episodes(pool, SETTING, TASKS, options.seed), Items(pool)
    gathered = Gathered(pool)
    kinds = {
        "DataLoader": (items, 1, None),
        "DataLoader, __getitems__ of a task": (gathered, 1, as_it_is),
        f"DataLoader, __getitems__ of {TASKS} tasks": (gathered, TASKS, as_it_is),
    }
    loaders: dict[str, Iterator[list[Tensor]]] = {}
    sizes: dict[str, int] = {}
    for kind, (of, tasks, collate) in kinds.items():
        for workers in (0, 2):
            name = f"{kind}, {workers} workers" if workers else kind
            sampler = TaskSampler(of, SETTING, tasks)
            loader = DataLoader(of, batch_sampler=sampler, num_workers=workers, collate_fn=collate)
            loaders[name], sizes[name] = iter(loader), tasks
    of_ours, (of_loader, _) = episodes[0], next(loaders["DataLoader"])
    assert of_ours.query_x[0, 0].shape == of_loader[0].shape
    assert of_ours.query_x.dtype == of_loader.dtype
    assert len(of_loader) == SETTING.ways * SETTING.items
    seconds: dict[str, list[float]] = {"quickstudy": [], **{name: [] for name in loaders}}
    for turn in range(-1, options.rounds):  # the first turn warms up
        measured = {"quickstudy": seconds_of_ours(episodes, turn + 1, options.batches)}
        for name, loader in loaders.items():
            measured[name] = seconds_of_loader(loader, sizes[name], options.batches)
            time.sleep(0.05)  # its workers fill their queue again, undisturbed and undisturbing
        if turn >= 0:
            for name, value in measured.items():
                seconds[name].append(value)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    peer = min(loaders, key=lambda name: medians[name])
    dataset, split = pool.name.split(".")
    row = partial(
        Row,
        benchmark="sampling",
        dataset=dataset,
        split=split,
        setting=str(SETTING),
        n=options.rounds,
        seed=options.seed,
    )
    rows: list[Row] = []
    for name, median in medians.items():
        for metric, amount in (
            ("tasks/s", TASKS),
            ("images/s", TASKS * SETTING.ways * SETTING.items),
        ):
            beside = f"{peer} {amount / medians[peer]:.6g}" if name == "quickstudy" else None
            rows.append(row(method=name, metric=metric, value=amount / median, peer=beside))
    ratio = medians[peer] / medians["quickstudy"]
    rows.append(row(method="quickstudy", metric="times as fast", value=ratio, peer=f"{peer} 1"))
    for r in rows:
        print(f"{r.method}: {r.value:,.1f} {r.metric}")
    write("sampling", rows)


if __name__ == "__main__":
    main()
