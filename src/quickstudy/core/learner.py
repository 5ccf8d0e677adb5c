"""`Learner`, the base class of all methods, and `embed`, which applies an encoder to the items of tasks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Generator, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.core.contracts import channels_last_reason, kept
from quickstudy.core.episode import Episode, Support
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.kernels.switch import PARAMETER_SWAP_LOCK, the_tensor
from quickstudy.core.kernels.torch_private import BatchNorm

EXACT = (torch.float32, torch.float64)
"""Types that embeddings have."""


class Learner(nn.Module, ABC):
    """A few-shot learning method: it classifies queries by a support set.

    A subclass implements `predict`, which never gets the query labels, so they cannot leak.
    `forward` *is* the meta-loss, so any optimizer and any data-parallel wrapper can train a learner.

    Every `predict`, also one of your own, is checked: that the items fit each other and are finite, and that
    the scores are [T, Q, N] and finite (see `contracts.kept`).

    In evaluation mode, many threads may call `predict`, and `adapted` where there is one, of one learner at
    once. Training is not for several threads, nor is what changes modes for a while: `fit`, `evaluate`,
    `predict_folders`, `batch_statistics`. Give each thread that does so a copy of the learner.
    """

    item_format: Any = None
    """Format of the items that it was trained on, if it was loaded from a checkpoint that states it."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Put the check of the contract around a subclass's own `predict`."""
        super().__init_subclass__(**options)
        if "predict" in vars(cls):
            setattr(cls, "predict", kept(cls.predict))  # noqa: B010 (the wrapper has no names of arguments)

    @property
    def device(self) -> torch.device:
        """Device of the parameters; the CPU if there are none."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def transductive(self) -> bool:
        """Whether scores of a query depend on the other queries of its task, whatever batch norm sees."""
        return False

    @abstractmethod
    def predict(self, support: Support, query_x: Tensor) -> Tensor:
        """Classify the queries of T tasks by their support sets.

        Args:
            support: Labelled items of T tasks.
            query_x: [T, Q, ...] query items, to be classified.

        Returns:
            [T, Q, N] scores, higher is likelier; their softmax over N gives probabilities.

        Raises:
            TypeError: If the support is no `Support`, or queries or scores are no tensors.
            ValueError: If shapes or precisions disagree, or items aren't finite.
            FloatingPointError: If scores aren't finite.
        """

    def forward(self, episode: Episode) -> Tensor:
        """Meta-loss, a scalar: mean cross-entropy of the queries of all tasks, in nats.

        Args:
            episode: Support and query sets of T tasks.
        """
        scores = self.predict(episode.support, episode.query_x)
        return F.cross_entropy(scores.flatten(0, 1), episode.query_y.flatten())


def with_embedding(learner: Learner, make: Callable[[nn.Module], nn.Module]) -> Learner:
    """A copy of a learner with another encoder, usually its own one wrapped for use after training.

    Args:
        learner: Learner with an `encoder`; it is not changed.
        make: Function from the learner's encoder to the encoder of the copy.

    Returns:
        A learner of the same class. It shares all parameters and buffers with the original, so training the
        original trains the copy as well.

    Raises:
        ValueError: If the learner has no encoder.
    """
    encoder = getattr(learner, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise ValueError(
            f"{type(learner).__name__} has no encoder that could be wrapped: leave the embedding out"
        )
    made = copy(learner)
    vars(made)["_modules"] = dict(vars(made)["_modules"])  # everything else stays shared by the two
    made.encoder = make(encoder)
    return made


def embed(encoder: nn.Module, x: Tensor) -> Tensor:
    """Embed the items of T tasks, with each task as a batch of its own.

    Where batch norm uses batch statistics (in training, or inside `batch_statistics`), they are those of
    one task, as in the papers, which take one task per step. So the loss of T tasks is the mean of T
    losses, on one process or many. Running statistics are updated once, by the mean of the updates that
    the single tasks would make.

    Args:
        encoder: Any module from [B, ...] to [B, D].
        x: [T, B, ...] items.

    Returns:
        [T, B, D] embeddings, in float32 or float64 even if the encoder runs in lower precision.

    Raises:
        ValueError: If the encoder's output is not [B, D].
    """
    norms = [
        m for m in encoder.modules() if isinstance(m, BatchNorm) and (m.training or m.running_mean is None)
    ]
    if norms and x.shape[0] > 1:
        with PARAMETER_SWAP_LOCK:  # the encoder is lent copies of its statistics
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
    if type(encoder) is nn.Identity and all(x.ndim == 3 and x.dtype in EXACT for x in items):
        return items  # features of a pool, which needn't be brought together
    return embed(encoder, torch.cat(items, 1)).split([x.shape[1] for x in items], 1)


def _encode(encoder: nn.Module, x: Tensor, whole: bool) -> Tensor:
    chunk = sizes_on(x.device.type).encoded_items
    if whole or torch.is_grad_enabled() or len(x) <= chunk:
        z = embeddings_of(encoder, x)
    else:
        z = torch.cat([embeddings_of(encoder, part) for part in x.split(chunk)])
    if z.ndim != 2 or len(z) != len(x):
        raise ValueError(
            f"the encoder made {list(z.shape)} of {list(x.shape)}: it must give [B, D], one embedding "
            "per item; end it with nn.Flatten()"
        )
    return z


def embeddings_of(encoder: nn.Module, x: Tensor) -> Tensor:
    """What an encoder makes of items, if that is a tensor.

    Args:
        encoder: Any module.
        x: [B, ...] items.

    Raises:
        TypeError: If it is none, such as the outputs by name of a model of Hugging Face.
        ValueError: If it fails on pictures whose channels come last.
    """
    try:
        z: Any = encoder(x)
    except RuntimeError as error:  # torch's own, which names numbers and no reason
        if reason := channels_last_reason(encoder, x):
            raise ValueError(reason) from error
        raise
    return the_tensor(z, "the encoder")


def _each_task(encoder: nn.Module, x: Tensor, norms: list[BatchNorm]) -> Iterator[Tensor]:
    # Each task starts from the same running statistics and updates copies of them: autograd may have saved
    # the ones that a task has used, so they must not be overwritten.
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
    """Restore the mode, training or evaluation, of each submodule after the block, also after an error.

    Args:
        module: Module with submodules of any modes.
    """
    before = [(m, m.training) for m in module.modules()]
    try:
        yield
    finally:
        for m, training in before:
            m.training = training


@contextmanager
def evaluation_mode(module: nn.Module) -> Generator[None]:
    """Put a module into evaluation mode inside the block, and restore the mode of each submodule afterwards.

    Args:
        module: Module with submodules of any modes.
    """
    with modes_kept(module):
        module.eval()
        yield


def training_mode(module: nn.Module) -> None:
    """Put a module into training mode, except for its frozen submodules, which stay in evaluation mode.

    Args:
        module: Module with submodules of any modes; `frozen_in` says which of them are frozen.
    """
    kept = frozen_in(module)
    module.train()
    for m in kept:
        m.eval()


def frozen_in(module: nn.Module) -> list[nn.Module]:
    """The frozen submodules of a module, such as those of `encoder.eval().requires_grad_(False)`.

    A submodule is frozen if it is in evaluation mode while the whole module is in training mode, or if it is
    in evaluation mode and has parameters, none of which requires a gradient. What is within a frozen one is
    frozen, too.

    Args:
        module: Module with submodules of any modes.
    """
    found: dict[nn.Module, None] = {}
    for m in module.modules():
        parameters = list(m.parameters())
        without_gradient = bool(parameters) and not any(p.requires_grad for p in parameters)
        if not m.training and (module.training or without_gradient):
            found.update(dict.fromkeys(inner for inner in m.modules() if not inner.training))
    return list(found)


@contextmanager
def batch_statistics(module: nn.Module, frozen: Container[nn.Module] | None = None) -> Generator[None]:
    """Make batch norm use the batch statistics of each task's own items: transductive evaluation.

    Running statistics are neither used nor changed, and all other layers, such as dropout, are unaffected. So
    is frozen batch norm with running statistics, which are its constants.

    Args:
        module: Module with any number of batch norm layers.
        frozen: Its frozen submodules; by default those that `frozen_in` finds.
    """
    frozen = frozen_in(module) if frozen is None else frozen
    norms = [
        m
        for m in module.modules()
        if isinstance(m, BatchNorm) and not (m in frozen and m.running_mean is not None)
    ]
    before = [(m.training, m.track_running_stats) for m in norms]
    for m in norms:
        m.training, m.track_running_stats = True, False
    try:
        yield
    finally:
        for m, (training, track) in zip(norms, before, strict=True):
            m.training, m.track_running_stats = training, track
