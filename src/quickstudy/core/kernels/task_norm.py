"""Statistics of batch norm in an inner loop: those of the batch, or those of an earlier pass."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Statistics = tuple[Tensor, Tensor]
"""Mean and biased variance of each channel, over a batch."""


class TaskNorm:
    """Context in which `per_task` records the batch statistics of batch norm, or uses recorded ones.

    Without arguments, it only lets `per_task` use the batch norm of `batchnorm.py`, which has a faster second
    derivative.

    Args:
        keep: List to which the statistics of every call of batch norm are appended, in the order of calls.
        use: Statistics of an earlier pass, in the order of calls, used instead of those of the batch. With
            those of the support, queries are normalized by the statistics of the support.
    """

    def __init__(self, keep: list[Statistics] | None = None, use: Sequence[Statistics] | None = None) -> None:
        self.keep, self.use, self.used = keep, use, 0

    def __enter__(self) -> None:
        """Activate the context; it replaces an outer one."""
        self._before = _active.set(self)

    def __exit__(self, *_: object) -> None:
        """Deactivate the context; an outer one is active again."""
        _active.reset(self._before)


_active: ContextVar[TaskNorm | None] = ContextVar("quickstudy_task_norm", default=None)


def is_active() -> bool:
    """Whether a `TaskNorm` is active."""
    return _active.get() is not None


def uses_given_statistics() -> bool:
    """Whether an active `TaskNorm` gives recorded statistics."""
    norm = _active.get()
    return norm is not None and norm.use is not None


def needs_statistics() -> bool:
    """Whether an active `TaskNorm` records or gives statistics, so that the order of the calls matters."""
    norm = _active.get()
    return norm is not None and (norm.keep is not None or norm.use is not None)


def next_statistics() -> Statistics | None:
    """Recorded statistics for the present call of batch norm; None unless an active `TaskNorm` gives them."""
    norm = _active.get()
    if norm is None or norm.use is None:
        return None
    norm.used += 1
    return norm.use[norm.used - 1]


def record_statistics(mean: Tensor, variance: Tensor) -> None:
    """Record the statistics of the present call of batch norm, if an active `TaskNorm` records them.

    Args:
        mean: [C] mean of each channel.
        variance: [C] biased variance of each channel.
    """
    norm = _active.get()
    if norm and norm.keep is not None:
        norm.keep.append((mean.detach(), variance.detach()))


@contextmanager
def undone_on_error() -> Generator[None]:
    """After an error inside the block, forget what it recorded and used, so that it can be tried again."""
    norm = _active.get()
    used, kept = (norm.used, len(norm.keep or ())) if norm else (0, 0)
    try:
        yield
    except BaseException:
        if norm:
            norm.used = used
            del (norm.keep or [])[kept:]
        raise
