"""Learner, the only base class; and the one way an encoder is applied to tasks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.episode import Episode, Support
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.kernels.torch_private import BatchNorm


class Learner(nn.Module, ABC):
    """A method that learns to learn: it tells the classes of queries from a support set.

    A subclass implements `predict`. It is never shown the query labels, so they cannot leak.
    `forward` *is* the meta-loss, so that any optimizer and any data-parallel wrapper trains it.
    """

    @property
    def device(self) -> torch.device:
        """Where its parameters are; the CPU if it has none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @abstractmethod
    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Scores of the queries.

        Args:
            support: The labelled items of T tasks.
            query_x: [T, Q, ...] items to classify.

        Returns:
            [T, Q, N] scores, higher is likelier; softmax over N makes them probabilities.
        """

    def forward(self, episode: Episode) -> Tensor:
        """The meta-loss: mean cross-entropy of the queries of all tasks, in nats, a scalar."""
        scores = self.predict(episode.support, episode.query_x)
        return F.cross_entropy(scores.flatten(0, 1), episode.query_y.flatten())


def with_embedding(learner: Learner, make: Callable[[nn.Module], nn.Module]) -> Learner:
    """Make of a learner the same one with its encoder changed, as it is used after training.

    Args:
        learner: A learner with an `encoder`; it stays as it is.
        make: From the learner's encoder to the one of the new learner, usually a module around it.

    Returns:
        A learner of the same class, which shares all parameters and buffers with the one given: as that is
        trained, this is.

    Raises:
        ValueError: if the learner has no encoder.
    """
    encoder = getattr(learner, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"{type(learner).__name__} has no encoder to put anything around: leave the embedding out"
        )
    made = copy(learner)
    vars(made)["_modules"] = dict(vars(made)["_modules"])  # all else of the two stays one and the same
    made.encoder = make(encoder)
    return made


def embed(encoder: nn.Module, x: Tensor) -> Tensor:
    """Embed the items of T tasks, each task apart from the others.

    Where batch norm uses batch statistics (in training, or inside `batch_statistics`) they are those of
    one task, as in the papers, whose steps hold one task: so the loss of T tasks is the mean of T
    losses, on one process or many. Running statistics then move by the mean of what each task
    would have moved them, once.

    Args:
        encoder: Any module from [B, ...] to [B, D].
        x: [T, B, ...] items.

    Returns:
        [T, B, D] embeddings, float32 at least (an encoder may run in lower precision).

    Raises:
        ValueError: If the encoder's output is not [B, D].
    """
    norms = [
        m for m in encoder.modules() if isinstance(m, BatchNorm) and (m.training or m.running_mean is None)
    ]
    if norms and x.shape[0] > 1:
        z = torch.stack(list(_each_task(encoder, x, norms)))
    else:
        z = _encode(encoder, x.flatten(0, 1), whole=bool(norms)).unflatten(0, x.shape[:2])
    return z.float() if z.dtype in (torch.bfloat16, torch.float16) else z


def embed_together(encoder: nn.Module, *items: Tensor) -> tuple[Tensor, ...]:
    """Embed several groups of items of T tasks, such as the support and the queries, in one batch.

    In training, batch norm then sees all items of a task at once.

    Args:
        encoder: Any module from [B, ...] to [B, D].
        items: Groups of items, each [T, B, ...] with a B of its own.

    Returns:
        [T, B, D] embeddings of each group, as `embed` gives them.

    Raises:
        ValueError: If the encoder's output is not [B, D].
    """
    return embed(encoder, torch.cat(items, 1)).split([x.shape[1] for x in items], 1)


def _encode(encoder: nn.Module, x: Tensor, whole: bool) -> Tensor:
    chunk = sizes_on(x.device.type).encoded_items
    if whole or torch.is_grad_enabled() or len(x) <= chunk:
        z: Tensor = encoder(x)
    else:
        z = torch.cat([encoder(part) for part in x.split(chunk)])
    if z.ndim != 2 or len(z) != len(x):
        raise ValueError(
            f"the encoder made {list(z.shape)} of {list(x.shape)}: it must give [B, D], one embedding "
            "an item; end it with nn.Flatten()"
        )
    return z


def _each_task(encoder: nn.Module, x: Tensor, norms: list[BatchNorm]) -> Iterator[Tensor]:
    # Each task begins from the same running statistics, and moves copies of them: autograd may hold on
    # to what a task has used, so that must not be written again.
    running = [(m, name, b) for m in norms for name, b in m.named_buffers(recurse=False)]
    moves = [torch.zeros_like(b) for _, _, b in running]
    try:
        for task in x:
            for m, name, b in running:
                setattr(m, name, b.clone())
            yield _encode(encoder, task, whole=True)
            for (m, name, b), move in zip(running, moves, strict=True):
                move.add_(getattr(m, name) - b)
    finally:
        for m, name, b in running:
            setattr(m, name, b)
    for (_, _, b), move in zip(running, moves, strict=True):
        b.add_(torch.div(move, len(x), rounding_mode=None if b.is_floating_point() else "floor"))


@contextmanager
def modes_kept(module: nn.Module) -> Generator[None]:
    """Leave each submodule in the mode, training or evaluation, it was in, however the block ends."""
    before = [(m, m.training) for m in module.modules()]
    try:
        yield
    finally:
        for m, training in before:
            m.training = training


@contextmanager
def evaluation_mode(module: nn.Module) -> Generator[None]:
    """Put a module into evaluation mode for the block; afterwards each submodule is in the mode it was in."""
    with modes_kept(module):
        module.eval()
        yield


def training_mode(module: nn.Module) -> None:
    """Put a module into training mode, but for what is frozen: it stays in evaluation mode.

    Frozen are submodules that are in evaluation mode while the whole is not, and those with parameters of
    which none requires a gradient.
    """
    as_found = module.training
    kept: list[nn.Module] = []
    for m in module.modules():
        parameters = list(m.parameters())
        frozen = bool(parameters) and not any(p.requires_grad for p in parameters)
        if not m.training and (as_found or frozen):
            kept.append(m)
    module.train()
    for m in kept:
        m.eval()


@contextmanager
def batch_statistics(module: nn.Module) -> Generator[None]:
    """Let batch norm use the statistics of each task's own items: transductive evaluation.

    Running statistics are neither used nor changed, and everything else (dropout, …) stays as it is.
    """
    norms = [m for m in module.modules() if isinstance(m, BatchNorm)]
    before = [(m.training, m.track_running_stats) for m in norms]
    for m in norms:
        m.training, m.track_running_stats = True, False
    try:
        yield
    finally:
        for m, (training, track) in zip(norms, before, strict=True):
            m.training, m.track_running_stats = training, track
