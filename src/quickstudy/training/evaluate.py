"""`evaluate`, the accuracy of a learner on unseen classes, and `fit_transforms`."""

import hashlib
import json
import math
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast, get_args, overload

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from quickstudy.core.arguments import checked
from quickstudy.core.contracts import check_weights
from quickstudy.core.episode import Trials
from quickstudy.core.inner_loop import task_losses
from quickstudy.core.learner import Learner, batch_statistics, embed, evaluation_mode, frozen_in
from quickstudy.core.modes import Mode
from quickstudy.core.progress import ProgressCallback
from quickstudy.core.scores import ErrorScore, Score, data_interval, hits, mean_ci95
from quickstudy.core.seeds import generators_kept
from quickstudy.data.datasets.alphabets import WithinAlphabets
from quickstudy.data.episodes import Episodes
from quickstudy.data.formats.items import floats
from quickstudy.data.own_tasks import OwnTasks, TaskSource, as_batches
from quickstudy.data.pool import ClassPool
from quickstudy.encoders.postprocess import Embedding, EmbeddingTransform
from quickstudy.training.contracts import check_batches, check_format, check_learner, check_ways
from quickstudy.training.run_folder import summary_of

EVALUATION_SEED = 2
"""Seed of tasks of one's own that are given as they are: another than in training and validation."""
FITTED_ON = 3000
"""Default number of items to which embedding transforms are fitted, if the pool has that many."""


@torch.no_grad()
@checked
def fit_transforms(module: nn.Module, pool: ClassPool, seed: int = 0, items: int = FITTED_ON) -> None:
    """Fit the transforms of every `Embedding` in a learner, or of one `Embedding`, the innermost first.

    They are fitted in evaluation mode. Weights, modes and the global random generators do not change.

    Args:
        module: Learner with an `Embedding` as its encoder, or an `Embedding`; in any other module there is
            nothing to fit.
        pool: Classes that the encoder was trained on.
        seed: Seed of the random draw of classes.
        items: Number of items to fit to. Whole classes are drawn until there are at least as many, or until
            the pool is exhausted.
    """
    embeddings = [m for m in module.modules() if isinstance(m, Embedding) and len(m.transforms)]
    if not embeddings:
        return
    order = np.random.default_rng(seed).permutation(len(pool))
    few = pool.subset(order[: np.searchsorted(np.cumsum(pool.counts[order]), items) + 1])
    index = np.array_split(few.indices, math.ceil(few.counts.sum() / 512))
    device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    y = torch.from_numpy(np.repeat(np.arange(len(few)), few.counts)).to(device)
    sources = None if few.sources is None else torch.from_numpy(few.sources[few.indices]).to(device)
    with scoring_mode(module, 1, "inductive"):
        for embedding in embeddings[::-1]:  # `modules` lists an outer one before an inner one
            x = (floats(torch.from_numpy(few.items[i])).to(device)[None] for i in index)
            z = torch.cat([embed(embedding.encoder, part)[0] for part in x])
            for transform in embedding.transforms:
                assert isinstance(transform, EmbeddingTransform)
                transform.fit(z, y, sources)
                z = transform(z)


@overload
def evaluate(
    learner: Learner,
    episodes: Episodes | WithinAlphabets,
    count: int = 1000,
    mode: Mode = "inductive",
    *,
    fabric: Fabric | None = None,
    report: ProgressCallback | None = None,
    comparable: bool = True,
) -> Score: ...


@overload
def evaluate(
    learner: Learner,
    episodes: Trials | TaskSource,
    count: int = 1000,
    mode: Mode = "inductive",
    *,
    fabric: Fabric | None = None,
    report: ProgressCallback | None = None,
    comparable: bool = True,
) -> Score | ErrorScore: ...


@torch.no_grad()
@checked
def evaluate(
    learner: Learner,
    episodes: Trials | TaskSource,
    count: int = 1000,
    mode: Mode = "inductive",
    *,
    fabric: Fabric | None = None,
    report: ProgressCallback | None = None,
    comparable: bool = True,
) -> Score | ErrorScore:
    """Mean accuracy of a learner over the first `count` tasks of `episodes`; of regressions, the mean error.

    It changes modes while it runs, so no other thread may use the learner meanwhile.

    Args:
        learner: Learner to evaluate; the mode, training or evaluation, of each module is restored afterwards,
            and frozen batch norm keeps its running statistics in every mode.
        episodes: Episodes of classes that the learner has never seen; for tasks of your own a function from i
            to an `Episode`, a list or a generator, as in `OwnTasks`, or any class with the methods of
            `Trials`.
        count: Number of tasks, at least 1.
        mode: "inductive": each query is classified by itself, and batch norm uses the running statistics of
            training. "transductive": batch norm uses the statistics of the task's support and queries.
            "authors": the same for tasks with one query a class, the protocol of the authors of MAML. The
            score of a learner that is `transductive` by itself, such as one with a transductive head, is
            named "transductive" where batch norm is inductive, too.
        fabric: Fabric of the processes that share the tasks; one process by default.
        report: Callback that is given (tasks done, count) after each meta-batch.
        comparable: Whether the score has a digest of the tasks, for `compare`, and the interval over classes
            and items, which take up to seconds; the validations of a training do without.

    Returns:
        Mean accuracy with its 95 % intervals, over draws of tasks and, for `Episodes`, over classes and
        items; the accuracy of each task; and the conditions of the evaluation. Of regressions (ways = 0) an
        `ErrorScore`, with the mean squared error and that of each task instead.

    Raises:
        ValueError: If count < 1, the mode is unknown, the mode is "authors" and the tasks have more than one
            query a class, some tasks are regressions and others not, there are fewer tasks, or the items are
            of another format than those that a loaded learner was trained on.
        TypeError: If the learner is none, or the episodes are no sequence of meta-batches.
        FloatingPointError: If weights or scores aren't finite.
    """
    check_learner(learner, "evaluate")
    episodes = cast(Trials, as_batches(episodes, EVALUATION_SEED))
    check_batches("episodes", episodes)
    check_queries(episodes, mode)
    check_ways(learner, episodes)
    check_format(learner, episodes)
    check_weights(learner)
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    with scoring_mode(learner, count, mode):
        episodes = episodes.on(learner.device)
        batches = math.ceil(count / episodes.tasks)
        if isinstance(episodes, OwnTasks):
            episodes.check_enough(batches)
        found: list[tuple[slice, Tensor]] = []  # places of tasks; their hits [tasks, Q] or errors [tasks, 1]
        asked_for: list[Tensor] = []  # items of the queries of each meta-batch
        regression: set[bool] = set()
        for i in range(batches):
            asked = len(range(count)[i * episodes.tasks + rank : (i + 1) * episodes.tasks : world])
            if asked:  # of the last meta-batch no more than that
                episode = episodes.part(i, rank, world)[:asked]
                scores = learner.predict(episode.support, episode.query_x)
                regression.add(not episode.ways)
                told = (
                    hits(scores, episode.query_y).float()
                    if episode.ways
                    else task_losses(scores, episode.query_y, 0).unsqueeze(1)
                )
                first = i * episodes.tasks + rank
                found.append((slice(first, first + asked * world, world), told.cpu()))
            if comparable and isinstance(episodes, Episodes):
                asked_for.append(torch.from_numpy(episodes.query_items(i)).flatten())
            if report:
                report(min((i + 1) * episodes.tasks, count), count)
    fabric = fabric if world > 1 else None
    right, known = _gathered(found, count, fabric)
    kinds = _over_all(torch.tensor([float(kind in regression) for kind in (False, True)]), "max", fabric)
    each = right.sum(1) / known.sum(1)
    mean, ci95 = mean_ci95(each)
    named: Mode = "transductive" if mode == "inductive" and learner.transductive else mode
    stated = (mean, ci95, count, episodes.seed, str(episodes.setting), named)
    facts, data95 = "", None
    if comparable and getattr(episodes, "repeatable", True):
        facts = hashlib.blake2b(json.dumps(summary_of(episodes)).encode(), digest_size=8).hexdigest()
    if kinds.tolist() == [0, 1]:
        return ErrorScore(*stated, tasks=facts, errors=tuple(each.tolist()))
    if kinds.all():
        raise ValueError(
            "some tasks are regressions (ways = 0) and others have classes: evaluate them one after the other"
        )
    if comparable and isinstance(episodes, Episodes):
        items = torch.cat(asked_for)[: int(known.sum())]
        data95 = data_interval(right[known], items, _classes_of(episodes.pool)[items])
    name: str = getattr(getattr(episodes, "pool", None), "name", "")
    return Score(*stated, pool=name, data95=data95, tasks=facts, accuracies=tuple(each.tolist()))


def _gathered(found: list[tuple[slice, Tensor]], count: int, fabric: Fabric | None) -> tuple[Tensor, Tensor]:
    """What all processes have found, [count, most], and where: a task with fewer queries has zeros."""
    most = torch.tensor(float(max((x.shape[1] for _, x in found), default=0)))
    values = torch.zeros(count, int(_over_all(most, "max", fabric)))
    known = torch.zeros_like(values)
    for places, x in found:
        values[places, : x.shape[1]] = x
        known[places, : x.shape[1]] = 1.0
    return _over_all(values, "sum", fabric), _over_all(known, "sum", fabric).bool()


def _over_all(x: Tensor, how: str, fabric: Fabric | None) -> Tensor:
    """Sum or largest value over the processes, if there are several."""
    reduced: Any = fabric.all_reduce(x, reduce_op=how) if fabric else x
    return reduced.cpu()


def _classes_of(pool: ClassPool) -> Tensor:
    """Class of each item of a pool, by the item's index."""
    of = np.full(len(pool.items), -1)
    of[pool.indices] = np.repeat(np.arange(len(pool)), pool.counts)
    return torch.from_numpy(of)


def check_queries(episodes: Trials, mode: Mode) -> None:
    """Refuse tasks that don't fit the mode: "authors" means one query a class.

    Args:
        episodes: Episodes to evaluate on; those whose setting states no number of queries are not refused.
        mode: Mode of the evaluation.

    Raises:
        ValueError: If the mode is "authors" and the tasks have more than one query a class.
    """
    queries = getattr(episodes.setting, "queries", 1)
    if mode == "authors" and queries != 1:
        raise ValueError(
            f"mode 'authors' takes one query a class, not {queries}: give the setting queries=1, or take "
            "mode 'transductive'"
        )


@contextmanager
def scoring_mode(learner: nn.Module, count: int, mode: Mode) -> Generator[None]:
    """Context of an evaluation: evaluation mode, with the input of batch norm that `mode` sets.

    Afterwards the mode of each module and the global random generators are restored.

    Args:
        learner: Learner to evaluate.
        count: Number of tasks, which is only checked.
        mode: "inductive", "transductive" or "authors", as in `evaluate`.

    Raises:
        ValueError: If count < 1 or the mode is unknown.
    """
    if count < 1 or mode not in get_args(Mode):
        raise ValueError(
            f"count is {count} and mode {mode!r}: take count ≥ 1, and mode 'inductive', 'transductive' or "
            "'authors'"
        )
    statistics: AbstractContextManager[None] = (
        nullcontext() if mode == "inductive" else batch_statistics(learner, frozen_in(learner))
    )
    with generators_kept(), evaluation_mode(learner), statistics:
        yield
