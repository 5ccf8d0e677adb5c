"""Evaluation of prototypes on cached features: 10,000 tasks 5w1s of 640 numbers, beside easyfsl 1.5.0.

Both sides draw tasks of the same made-up vectors (20 classes of 600, as the test of CIFAR-FS has), classify
15 queries of each class by the nearest class mean, and take the mean accuracy; the whole is timed, from the
features in memory to the figure. Ours is `evaluate` on `Episodes`, meta-batches of many tasks.

The peer is easyfsl's `FeaturesDataset`, `TaskSampler` in a `DataLoader`, and `PrototypicalNetworks` on an
identity, as its documentation says, without gradients. It is set up in three ways, and the fastest counts:
without worker processes, with two of them, and with the features of a task gathered at once
(`__getitems__`), which easyfsl doesn't do. Sides take turns; the median counts. The accuracies must agree
within their intervals, as both draw by themselves.

Its installation would replace torch, so it is used from an unpacked copy, beside pandas, which it takes:

    python -m pip download --no-deps --dest DIR easyfsl==1.5.0
    python -m zipfile -e DIR/easyfsl-1.5.0-py3-none-any.whl DIR
    python -m pip install --no-deps --target DIR pandas python-dateutil pytz six tzdata
    PYTHONPATH=DIR python -m benchmarks.features
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from benchmarks.peer_easyfsl import easyfsl
from benchmarks.rows import Row, write
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.core.scores import mean_ci95
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric.prototypical import Prototypical
from quickstudy.training.evaluate import evaluate

CLASSES, EACH, DIMENSIONS = 20, 600, 640
SETTING = Setting(5, 1, 15)
TOGETHER = 64
"""Tasks in a meta-batch of ours; of 4 to 256 all from 64 on are as fast."""
OURS, AT_ONCE = "quickstudy", "easyfsl, gathered at once"


def features(seed: int) -> tuple[Tensor, Tensor]:
    """Made-up features, of which a task 5w1s is neither easy nor hopeless, and their labels."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(CLASSES, 1, DIMENSIONS)) * 0.25
    x = middle + rng.normal(size=(CLASSES, EACH, DIMENSIONS))
    y = torch.arange(CLASSES).repeat_interleave(EACH)
    return torch.from_numpy(x.reshape(-1, DIMENSIONS).astype(np.float32)), y


def ours(x: Tensor, y: Tensor, count: int, seed: int) -> tuple[float, float]:
    """Accuracy and interval, as our users get them."""
    pool = ClassPool.from_arrays(x, y)
    score = evaluate(Prototypical(nn.Identity()), Episodes(pool, SETTING, TOGETHER, seed), count)
    return score.accuracy, score.ci95


@torch.no_grad()
def theirs(
    x: Tensor, y: Tensor, count: int, seed: int, workers: int = 0, at_once: bool = False
) -> tuple[float, float]:
    """Accuracy and interval, as easyfsl's users get them."""
    PrototypicalNetworks = easyfsl("methods.prototypical_networks").PrototypicalNetworks  # noqa: N806
    FeaturesDataset, TaskSampler = _data_of_easyfsl()  # noqa: N806
    random.seed(seed)
    dataset: Any = FeaturesDataset(y.tolist(), x, [str(c) for c in range(CLASSES)])
    if at_once:
        dataset = _AtOnce(dataset)
    shape: Any = SETTING.most
    sampler = TaskSampler(dataset, shape.ways, shape.shots, shape.queries, count)
    collate: Callable[..., Any] = partial(_split, shape) if at_once else sampler.episodic_collate_fn
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate)
    model = PrototypicalNetworks(nn.Identity()).eval()
    right: list[float] = []
    for support_x, support_y, query_x, query_y, _ in loader:
        model.process_support_set(support_x, support_y)
        right.append((model(query_x).argmax(1) == query_y).float().mean().item())
    return mean_ci95(torch.tensor(right))


def _data_of_easyfsl() -> tuple[Any, Any]:
    """Its data set and sampler; bare packages stand for its own, which import torchvision."""
    methods: Any = sys.modules["easyfsl.methods"]
    for name in ("datasets", "samplers"):
        bare = ModuleType(f"easyfsl.{name}")
        bare.__path__ = [str(Path(methods.__path__[0]).with_name(name))]
        sys.modules.setdefault(bare.__name__, bare)
    Sampler.__init__ = lambda self, data_source=None: None  # torch 2.14 takes none
    base = easyfsl("datasets.few_shot_dataset").FewShotDataset
    vars(sys.modules["easyfsl.datasets"])["FewShotDataset"] = base
    return easyfsl("datasets.features_dataset").FeaturesDataset, easyfsl("samplers.task_sampler").TaskSampler


class _AtOnce:
    """easyfsl's data set, of which a task's items are gathered by one call."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.labels = dataset, torch.tensor(dataset.labels)

    def get_labels(self) -> list[int]:
        return self.dataset.labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        of = torch.tensor(index)
        return self.dataset.embeddings[of], self.labels[of]


def _split(shape: Any, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor, list[int]]:
    """What `episodic_collate_fn` gives, of items gathered at once."""
    x = batch[0].view(shape.ways, shape.shots + shape.queries, -1)
    y = torch.arange(shape.ways)
    return (
        x[:, : shape.shots].flatten(0, 1),
        y.repeat_interleave(shape.shots),
        x[:, shape.shots :].flatten(0, 1),
        y.repeat_interleave(shape.queries),
        batch[1].view(shape.ways, -1)[:, 0].tolist(),
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no results")
    options = parser.parse_args()
    keep_freed_memory()
    x, y = features(options.seed)
    sides: dict[str, Callable[..., tuple[float, float]]] = {
        OURS: ours,
        "easyfsl": theirs,
        "easyfsl, 2 workers": partial(theirs, workers=2),
        AT_ONCE: partial(theirs, at_once=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, tuple[float, float]] = {}
    for turn in range(options.rounds):
        for name, side in sides.items():
            side(x, y, 100, options.seed)  # warms up
            started = time.perf_counter()
            found[name] = side(x, y, options.tasks, options.seed + turn)
            seconds[name].append(time.perf_counter() - started)
    for name, (accuracy, ci95) in found.items():
        if abs(accuracy - found[OURS][0]) > 1.5 * (ci95 + found[OURS][1]):
            sys.exit(f"{name} is right in {accuracy:.2%} and {OURS} in {found[OURS][0]:.2%}: no comparison")
    rate = {name: options.tasks / statistics.median(taken) for name, taken in seconds.items()}
    rows: list[Row] = []
    common = {"benchmark": "features", "dataset": "made-up", "split": "test", "setting": str(SETTING)}
    row = partial(Row, **common, mode="inductive", n=options.rounds, seed=options.seed)
    for name, value in rate.items():
        beside = f"{AT_ONCE} {rate[AT_ONCE]:.6g}" if name == OURS else None
        rows.append(row(method=name, metric="tasks/s", value=value, peer=beside))
        rows.append(row(method=name, metric="accuracy %", value=100 * found[name][0]))
    as_shipped = max(("easyfsl", "easyfsl, 2 workers"), key=lambda name: rate[name])
    ratio = {peer: rate[OURS] / rate[peer] for peer in (as_shipped, AT_ONCE)}
    rows.append(row(method=OURS, metric="times as fast", value=ratio[AT_ONCE], peer=f"{AT_ONCE} 1"))
    rows.append(row(method=OURS, metric="times as fast as easyfsl as it ships", value=ratio[as_shipped]))
    for r in rows:
        print(f"{r.method}: {r.value:,.4g} {r.metric}{f' ({r.peer})' if r.peer else ''}")
    if not options.dry:
        write("features", rows)


if __name__ == "__main__":
    main()
