"""Heads on features: beside easyfsl 1.5.0, and their accuracies on one backbone.

**Beside easyfsl.** Both sides get the same tasks of made-up features (20 classes of 600, 640 numbers ≥ 0, as
a network that ends in ReLU makes them; or those of a model's test classes, --encoder), of unit length on both
sides. Scores are compared, and must agree to 1e-4; then both are timed by turns, ours on 64 tasks at a time,
theirs on one after the other, which is all that they take; the median round counts. Where ours departs from
theirs by default (the docstrings say how), the parts of ours are put together as theirs are, so that both do
the same work:

- SimpleShot of theirs is our nearest cosine, with a sharpness of 1;
- BD-CSPN: no sharpness, all queries taken in, and the queries classified where they were;
- LaplacianShot: class means rectified as in their BD-CSPN, queries where they were;
- PT-MAP: no centering, no second unit length, 10 steps, and λ = 1 on both sides. At their λ = 10 their plan
  of such features is NaN at one shot (all entries of a query underflow), and at five shots it has not
  converged after the 1,000 iterations at which they stop; ours is exact at either;
- TIM: cosines, other weights of the losses, 50 steps;
- Finetune and transductive fine-tuning: class means alone by Adam, with cosines, or with distances that
  aren't squared.

**--accuracy MODEL …** embeds the test classes of each model once and takes 1,000 tasks of them, 5w1s and
5w5s, with 15 queries of each class and with Dirichlet(2) ones, by every head in `HEADS`, all on the same
tasks. Milliseconds a task are from features in memory to the accuracy.

The installation of easyfsl would replace torch, so it is used from an unpacked copy:

    python -m pip download --no-deps --dest DIR easyfsl==1.5.0
    python -m zipfile -e DIR/easyfsl-1.5.0-py3-none-any.whl DIR
    PYTHONPATH=DIR python -m benchmarks.heads
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.features import features
from benchmarks.peer_easyfsl import easyfsl
from benchmarks.rows import Row, kept, write
from quickstudy.cli.terminal import Terminal
from quickstudy.core.episode import Episode
from quickstudy.core.kernels.memory import keep_freed_memory
from quickstudy.data.episodes import Episodes
from quickstudy.data.pool import ClassPool
from quickstudy.data.setting import Setting
from quickstudy.metric.distances import cosines, prototypes, squared_distances
from quickstudy.metric.features.bd_cspn import rectified
from quickstudy.metric.features.catalogue import HEADS
from quickstudy.metric.features.descent import descended
from quickstudy.metric.features.laplacian_shot import smoothed
from quickstudy.metric.features.pt_map import power_transform, transported
from quickstudy.metric.features.simple_shot import nearest_cosine
from quickstudy.metric.features.tim import tim
from quickstudy.metric.heads import Head, nearest_prototype
from quickstudy.recipes import weights
from quickstudy.recipes.on_features import HeadScore, encoder_of, tested_heads

SETTINGS = (Setting(5, 1, 15), Setting(5, 5, 15))
TOGETHER = 64
AGREE = 1e-4
"""The most that scores may differ."""
PT_MAP_SHARPNESS = 1.0
"""λ of PT-MAP on both sides."""


@dataclass(frozen=True)
class Peer:
    """A method that both sides have.

    Args:
        ours: scores, as theirs are.
        module: of easyfsl's methods.
        name: of the class there.
        options: of it, where they aren't its default.
    """

    ours: Head
    module: str
    name: str
    options: Mapping[str, float] = field(default_factory=dict[str, float])


def _bd_cspn(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> Tensor:
    return cosines(queries, rectified(shots, y, ways, queries, 1.0, None)[0])


def _laplacian_shot(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> Tensor:
    means = rectified(shots, y, ways, queries, 1.0, None)[0]
    return smoothed(squared_distances(queries, means), queries, 2, 0.7).exp()


def _pt_map(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> Tensor:
    z, q = power_transform(shots, 0.5), power_transform(queries, 0.5)
    return transported(z, y, ways, q, PT_MAP_SHARPNESS, 0.2, 10).exp()


def _tim(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> Tensor:
    losses: dict[str, Any] = {"cross_entropy": 1.0, "marginal": 1.0, "conditional": 0.1}
    how: dict[str, Any] = {"classifier": "cosine", "normalize": False, "sharpness": 10.0, "steps": 50}
    return tim(shots, y, ways, queries, **losses, **how) / 10


def _fine_tuning(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> Tensor:
    def loss(w: Tensor) -> Tensor:
        log_p = cosines(shots, w).log_softmax(-1)
        return -log_p.gather(2, y.unsqueeze(2)).mean((1, 2))

    return cosines(queries, descended(prototypes(shots, y, ways), loss, 200, 1e-4))


def _transductive_fine_tuning(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> Tensor:
    def loss(w: Tensor) -> Tensor:
        # by torch.cdist, whose gradient at distance 0 is 0: there, at one shot, Adam would magnify rounding
        wrong = -(-torch.cdist(shots, w)).log_softmax(-1).gather(2, y.unsqueeze(2)).mean((1, 2))
        log_p = (-torch.cdist(queries, w)).log_softmax(-1)
        return wrong - (log_p.exp() * log_p).sum(2).mean(1)

    return -torch.cdist(queries, descended(prototypes(shots, y, ways), loss, 25, 5e-5))


def _prototypical(shots: Tensor, y: Tensor, ways: int, queries: Tensor) -> Tensor:
    return -(-nearest_prototype(shots, y, ways, queries)).sqrt()


PEERS = {
    "prototypical": Peer(_prototypical, "prototypical_networks", "PrototypicalNetworks"),
    "cosine": Peer(partial(nearest_cosine, sharpness=1.0), "simple_shot", "SimpleShot"),
    "fine-tuning": Peer(_fine_tuning, "finetune", "Finetune"),
    "bd-cspn": Peer(_bd_cspn, "bd_cspn", "BDCSPN"),
    "laplacianshot": Peer(_laplacian_shot, "laplacian_shot", "LaplacianShot"),
    "tim": Peer(_tim, "tim", "TIM"),
    "pt-map": Peer(_pt_map, "pt_map", "PTMAP", {"lambda_regularization": PT_MAP_SHARPNESS}),
    "transductive-fine-tuning": Peer(
        _transductive_fine_tuning, "transductive_finetuning", "TransductiveFinetuning"
    ),
}


def ours(peer: Peer, tasks: list[Episode]) -> Tensor:
    """Scores [T, Q, N] of all tasks, as many at a time as `evaluate` is given."""
    with torch.no_grad():
        return torch.cat([peer.ours(e.support.x, e.support.y, e.ways, e.query_x) for e in tasks])


def theirs(peer: Peer, tasks: list[Episode]) -> Tensor:
    """Scores [T, Q, N] of all tasks, one after the other."""
    made: Any = getattr(easyfsl(f"methods.{peer.module}"), peer.name)
    found: list[Tensor] = []
    with torch.no_grad():
        for e in tasks:
            for t in range(e.tasks):
                model = made(**peer.options)
                model.process_support_set(e.support.x[t].clone(), e.support.y[t])
                found.append(model(e.query_x[t].clone()))
    return torch.stack(found)


def tasks_of(pool: ClassPool, setting: Setting, count: int, seed: int) -> list[Episode]:
    """Tasks of features of unit length, drawn beforehand."""
    episodes = Episodes(pool, setting, TOGETHER, seed)
    found: list[Episode] = []
    for i in range(math.ceil(count / TOGETHER)):
        e = episodes[i]
        e.support.x, e.query_x = F.normalize(e.support.x, dim=-1), F.normalize(e.query_x, dim=-1)
        found.append(e)
    return found


def beside_easyfsl(pool: ClassPool, count: int, rounds: int, seed: int) -> list[Row]:
    """Rows of the differences and of tasks a second, of each method and setting."""
    rows: list[Row] = []
    for setting in SETTINGS:
        tasks = tasks_of(pool, setting, count, seed)
        number = sum(e.tasks for e in tasks)
        for name, peer in PEERS.items():
            difference = (ours(peer, tasks) - theirs(peer, tasks)).abs().max().item()
            if not difference <= AGREE:
                sys.exit(f"{name} {setting}: scores differ by {difference:.2g}: no comparison")
            seconds: dict[Callable[..., Tensor], list[float]] = {ours: [], theirs: []}
            for _ in range(rounds):
                for side, taken in seconds.items():
                    began = time.perf_counter()
                    side(peer, tasks)
                    taken.append(time.perf_counter() - began)
            rate, slow = (number / statistics.median(seconds[side]) for side in (ours, theirs))
            row = partial(
                Row,
                benchmark="heads",
                method=f"quickstudy, {name}",
                dataset=pool.name if pool.name != "pool" else "made-up",
                setting=str(setting),
                n=rounds,
                seed=seed,
            )
            rows.append(row(metric="tasks/s", value=rate, peer=f"easyfsl {slow:.6g}"))
            rows.append(row(metric="easyfsl's", value=slow))
            rows.append(row(metric="times easyfsl's", value=rate / slow))
            rows.append(row(metric="largest difference", value=difference, n=number))
            print(f"{name} {setting}: {rate:,.0f} and {slow:,.0f} tasks/s, {difference:.1g} apart")
    return rows


def accuracy_rows(model: str, found: list[HeadScore], dataset: str) -> list[Row]:
    """Two rows for each head and setting: its accuracy in %, and its time."""
    rows: list[Row] = []
    for head in found:
        score = head.score
        row = partial(
            Row,
            benchmark="heads",
            method=f"{model}, {head.head}",
            dataset=dataset,
            split="test",
            setting=score.setting,
            mode=score.mode,
            n=score.episodes,
            seed=score.seed,
        )
        ci95 = 100 * score.ci95 if math.isfinite(score.ci95) else None
        rows.append(row(metric="accuracy %", value=100 * score.accuracy, ci95=ci95))
        rows.append(row(metric="ms a task", value=head.milliseconds))
    return rows


def accuracies_on(model: str, count: int, seed: int, heads: list[str]) -> list[Row]:
    """Rows of all heads on the features of one model's test classes."""
    learner, manifest = weights.load_learner(model)
    settings = [Setting(s.ways, s.shots, s.queries, dirichlet=a) for a in (None, 2.0) for s in SETTINGS]
    found = tested_heads(
        weights.recipe_of(manifest),
        encoder_of(learner, model),
        heads,
        settings,
        count=count,
        seed=seed,
        data_root=weights.data_root_of(manifest, None),
        display=Terminal(),
    )
    name = Path(model).name if Path(model).is_dir() else model
    return accuracy_rows(name, list(found.scores), manifest["data"]["name"].split(".")[0])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accuracy", nargs="+", metavar="MODEL", help="measure accuracies on these instead")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), help="of --accuracy; all by default")
    parser.add_argument("--encoder", metavar="MODEL", help="features of its test classes, not made-up ones")
    parser.add_argument("--tasks", type=int, help="default: 1,000 of --accuracy, else 128")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no results")
    options = parser.parse_args()
    keep_freed_memory()
    if options.accuracy:
        rows: list[Row] = []
        for model in options.accuracy:
            of = accuracies_on(model, options.tasks or 1000, options.seed, options.heads)
            for row in of:
                print(f"{row.method} {row.setting} {row.mode}: {row.value:.4g} {row.metric}", flush=True)
            rows += of
    else:
        if options.encoder:
            learner, manifest = weights.load_learner(options.encoder)
            pool = weights.recipe_of(manifest).pool(root=weights.data_root_of(manifest, None)).split("test")
            pool = pool.embedded(encoder_of(learner, options.encoder))
        else:
            x, y = features(options.seed)
            pool = ClassPool.from_arrays(x.relu(), y)
        rows = beside_easyfsl(pool, options.tasks or 128, options.rounds, options.seed)
    if not options.dry:
        write("heads", [*kept("heads", rows), *rows])


if __name__ == "__main__":
    main()
