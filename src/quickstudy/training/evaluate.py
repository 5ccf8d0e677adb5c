"""evaluate: accuracy on classes never seen."""

import math
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from quickstudy.core.episode import Trials
from quickstudy.core.learner import Learner, batch_statistics, embed, evaluation_mode
from quickstudy.core.scores import Mode, Score, accuracies, mean_ci95
from quickstudy.core.seeds import generators_kept
from quickstudy.data.formats.items import floats
from quickstudy.data.pool import ClassPool
from quickstudy.encoders.postprocess import Embedding, EmbeddingTransform

FITTED_ON = 3000
"""Items, at least, that transforms are fitted on, where there are so many."""


@torch.no_grad()
def fit_transforms(module: nn.Module, pool: ClassPool, seed: int = 0, items: int = FITTED_ON) -> None:
    """Fit the transforms of every `Embedding` in a learner, or of one `Embedding`; the innermost first.

    They are fitted in evaluation mode. Weights, modes and the global random generators stay as they were.

    Args:
        module: A learner with an `Embedding` for its encoder, or an `Embedding`; others have nothing to fit.
        pool: Classes that the encoder was trained on.
        seed: Seed of the draw of classes, where there are many.
        items: Items, at least, of the classes that are drawn; all are taken where there are fewer.
    """
    embeddings = [m for m in module.modules() if isinstance(m, Embedding) and len(m.transforms)]
    if not embeddings:
        return
    order = np.random.default_rng(seed).permutation(len(pool))
    few = pool.subset(order[: np.searchsorted(np.cumsum(pool.counts[order]), items) + 1])
    index = np.array_split(few.indices, math.ceil(few.counts.sum() / 512))
    device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    y = torch.from_numpy(np.repeat(np.arange(len(few)), few.counts)).to(device)
    with evaluation(module, 1, "inductive"):
        for embedding in embeddings[::-1]:  # one that holds another comes before it
            x = (floats(torch.from_numpy(few.items[i])).to(device)[None] for i in index)
            z = torch.cat([embed(embedding.encoder, part)[0] for part in x])
            for transform in embedding.transforms:
                assert isinstance(transform, EmbeddingTransform)
                transform.fit(z, y)
                z = transform(z)


@torch.no_grad()
def evaluate(
    learner: Learner,
    episodes: Trials,
    count: int = 1000,
    mode: Mode = "inductive",
    *,
    fabric: Fabric | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Score:
    """Mean accuracy of a learner over the first `count` tasks of `episodes`.

    Args:
        learner: Learner to measure; each of its modules is left in the mode, training or not, it was in.
        episodes: of classes the learner has never seen.
        count: n, tasks.
        mode: "inductive": each query is classified alone, batch norm uses the running statistics of training.
            "transductive": batch norm uses the statistics of the task's support and queries.
        fabric: where several processes share the work; each task is counted once.
        report: called with (tasks done, count).

    Raises:
        ValueError: if count < 1 or the mode is unknown.
    """
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    with evaluation(learner, count, mode):
        episodes = episodes.on(learner.device)
        right = torch.zeros(count + episodes.tasks)
        for i in range(math.ceil(count / episodes.tasks)):
            mine = slice(i * episodes.tasks + rank, (i + 1) * episodes.tasks, world)
            if len(right[mine]):
                episode = episodes.part(i, rank, world)
                scores = learner.predict(episode.support, episode.query_x)
                right[mine] = accuracies(scores, episode.query_y).cpu()
            if report:
                report(min((i + 1) * episodes.tasks, count), count)
    if fabric and world > 1:
        total: Any = fabric.all_reduce(right, reduce_op="sum")
        right = total.cpu()
    accuracy, ci95 = mean_ci95(right[:count])
    return Score(accuracy, ci95, count, episodes.seed, str(episodes.setting), mode)


@contextmanager
def evaluation(learner: nn.Module, count: int, mode: Mode) -> Generator[None]:
    """Let batch norm see what `mode` says, as in `evaluate`; leave modes and random generators as they were.

    Raises:
        ValueError: if count < 1 or the mode is unknown.
    """
    if count < 1 or mode not in ("inductive", "transductive"):
        raise ValueError(f"count is {count} and mode {mode!r}: count ≥ 1, mode 'inductive' or 'transductive'")
    statistics: AbstractContextManager[None] = (
        batch_statistics(learner) if mode == "transductive" else nullcontext()
    )
    with generators_kept(), evaluation_mode(learner), statistics:
        yield
