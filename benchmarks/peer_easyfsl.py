"""Prototypical networks of easyfsl 1.5.0 beside ours: same weights, same tasks, same predictions.

Timed are training steps (60-way 1-shot 5-query: forward, backward, Adam) and evaluation (5-way 1-shot
15-query, scores and accuracy), tasks drawn beforehand. easyfsl brings no four-block encoder: it is timed with
the plain one and with ours. Each variant runs in processes of its own, by turns.

Predictions must be equal in float64. In training the peer's loss is another one (its distance is not squared)
and its batch norm sees support and queries apart; the amount of work is the same.

Its installation would replace torch, so it is used from an unpacked copy:

    python -m pip download --no-deps --dest DIR easyfsl==1.5.0
    python -m zipfile -e DIR/easyfsl-1.5.0-py3-none-any.whl DIR
    PYTHONPATH=DIR python -m benchmarks.peer_easyfsl
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.children import alternate, pooled, run
from benchmarks.plain import characters, encoder
from benchmarks.rows import Row, write
from quickstudy.data.episodes import Episodes, Setting
from quickstudy.episode import Episode
from quickstudy.experiment import TASKS
from quickstudy.learner import Learner
from quickstudy.learners.prototypical import Prototypical
from quickstudy.memory import keep_freed_memory
from quickstudy.metrics import accuracies

TRAIN, TEST = Setting(60, 1, 5), Setting(5, 1, 15)
WARM_UP = 2
CHECKED = 100
"""Test tasks whose predictions are compared."""
VERSION = "1.5.0"


@dataclass(frozen=True)
class Variant:
    """A side, and how it is set up.

    Args:
        peer: easyfsl.
        encoder: as in `plain.encoder`.
        fast: train in bfloat16, and keep freed memory.
    """

    peer: bool
    encoder: str
    fast: bool = False


VARIANTS = {
    "quickstudy": Variant(False, "ours", fast=True),
    "quickstudy, float32, default memory": Variant(False, "ours"),
    "easyfsl, plain encoder": Variant(True, "plain"),
    "easyfsl, our encoder": Variant(True, "ours"),
}
PEER = "easyfsl, plain encoder"


def easyfsl_prototypical() -> type[nn.Module]:
    """Its class `PrototypicalNetworks`, unmodified.

    `easyfsl.methods` imports all methods, some of which need torchvision; a bare package in its place lets
    the one module be imported alone.
    """
    package = importlib.util.find_spec("easyfsl")
    if not package or not package.submodule_search_locations:
        sys.exit("easyfsl is not on the path; how to get it: python -m benchmarks.peer_easyfsl --help")
    version = importlib.import_module("easyfsl").__version__
    if version != VERSION:
        sys.exit(f"this is easyfsl {version}: the comparison is with {VERSION}")
    methods = ModuleType("easyfsl.methods")
    methods.__path__ = [f"{package.submodule_search_locations[0]}/methods"]
    sys.modules["easyfsl.methods"] = methods
    return importlib.import_module("easyfsl.methods.prototypical_networks").PrototypicalNetworks


def build(variant: Variant, seed: int) -> Any:
    """The learner of a side."""
    f = encoder(variant.encoder, seed)
    return easyfsl_prototypical()(f) if variant.peer else Prototypical(f)


def scores(model: Any, episode: Episode) -> Tensor:
    """Scores [T, Q, N], as each side's users get them: ours of all tasks at once, the peer's task by task."""
    if isinstance(model, Learner):
        return model.predict(episode.support, episode.query_x)
    each: list[Tensor] = []
    for x, y, query_x in zip(episode.support.x, episode.support.y, episode.query_x, strict=True):
        model.process_support_set(x, y)
        each.append(model(query_x))
    return torch.stack(each)


def loss(model: Any, episode: Episode) -> Tensor:
    """Cross-entropy of a task, as each side's users write it."""
    if isinstance(model, Learner):
        return model(episode)
    return F.cross_entropy(scores(model, episode).flatten(0, 1), episode.query_y.flatten())


def measure(variant: Variant, steps: int, seed: int) -> dict[str, list[float]]:
    """Seconds a task, of training steps and of meta-batches of test tasks."""
    if variant.fast:
        keep_freed_memory()
    model, pool = build(variant, seed), characters()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    precision = torch.autocast("cpu", torch.bfloat16) if variant.fast else nullcontext()

    def train(episode: Episode) -> None:
        optimizer.zero_grad()
        with precision:
            value = loss(model, episode)
        value.backward()
        optimizer.step()
        value.item()

    @torch.no_grad()
    def test(episode: Episode) -> None:
        accuracies(scores(model, episode), episode.query_y)

    training = Episodes(pool, TRAIN, seed=seed)
    testing = Episodes(pool, TEST, TASKS, seed)
    seconds = {"training": _seconds_a_task(train, [training[i] for i in range(WARM_UP + steps)])}
    model.eval()
    seconds["evaluation"] = _seconds_a_task(test, [testing[i] for i in range(WARM_UP + steps)])
    return seconds


def _seconds_a_task(work: Callable[[Episode], None], episodes: Sequence[Episode]) -> list[float]:
    seconds: list[float] = []
    for episode in episodes:
        started = time.perf_counter()
        work(episode)
        seconds.append((time.perf_counter() - started) / episode.tasks)
    return seconds[WARM_UP:]


@torch.no_grad()
def agreement(seed: int) -> float:
    """Share of test batches for all of whose queries both sides predict the same class, in float64."""
    models = [build(VARIANTS[name], seed).double() for name in ("quickstudy", PEER)]
    episodes = Episodes(characters(), TEST, TASKS, seed)
    scores(models[0], _double(episodes[0]))  # batch norm gets running statistics worth the name
    models[1].backbone.take_weights(models[0].encoder)
    for model in models:
        model.eval()
    same = [
        torch.equal(*(scores(model, _double(episodes[i])).argmax(-1) for model in models))
        for i in range(1, 1 + CHECKED // TASKS)
    ]
    return sum(same) / len(same)


def _double(episode: Episode) -> Episode:
    episode.support.x, episode.query_x = episode.support.x.double(), episode.query_x.double()
    return episode


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4, help="processes of each variant")
    parser.add_argument(
        "--steps", type=int, default=20, help="timed training steps and test batches a process"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=[*VARIANTS, "agreement"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant == "agreement":
        print(json.dumps(agreement(options.seed)))
        return
    if options.variant:
        print(json.dumps(measure(VARIANTS[options.variant], options.steps, options.seed)))
        return

    easyfsl_prototypical()  # not there: say so before anything is measured
    module, seed = "benchmarks.peer_easyfsl", str(options.seed)
    same = run("-m", module, "--variant", "agreement", "--seed", seed).report
    if same != 1:
        sys.exit(f"only {same:.2%} of the test batches are predicted alike: the comparison is void")
    children = alternate(module, VARIANTS, options.rounds, "--steps", str(options.steps), "--seed", seed)
    dataset, split = characters().name.split(".")
    n = options.rounds * options.steps
    row: Any = partial(Row, benchmark="peer_easyfsl", dataset=dataset, split=split, seed=options.seed)
    rows: list[Row] = []
    for mode, setting in (("training", TRAIN), ("evaluation", TEST)):
        rate = {v: 1 / statistics.median(pooled(c, mode)) for v, c in children.items()}
        for variant, value in rate.items():
            beside = variant == "quickstudy"
            for metric, figure, peers in (
                ("tasks/s", value, rate[PEER]),
                ("times as fast", value / rate[PEER], 1.0),
            ):
                peer = f"{PEER} {peers:.6g}" if beside else None
                rows.append(
                    row(
                        method=variant,
                        setting=str(setting),
                        mode=mode,
                        metric=metric,
                        value=figure,
                        n=n,
                        peer=peer,
                    )
                )
    rows.append(
        row(
            method="quickstudy",
            setting=str(TEST),
            mode="evaluation",
            metric="same predictions %",
            value=100.0,
            n=CHECKED,
        )
    )
    for r in rows:
        print(f"{r.method}, {r.mode}: {r.value:,.4g} {r.metric}")
    write("peer_easyfsl", rows)


if __name__ == "__main__":
    main()
