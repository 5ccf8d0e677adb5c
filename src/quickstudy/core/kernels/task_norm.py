"""Which statistics batch norm takes in an inner loop: a batch's own, or those of an earlier pass."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Statistics = tuple[Tensor, Tensor]
"""Mean and biased variance of each channel."""


class TaskNorm:
    """While active, batch norm by batch statistics can be recorded and repeated, in what `per_task` runs.

    With neither argument it only lets `per_task` use the batch norm of `batchnorm.py`, which is faster
    to differentiate twice.

    Args:
        keep: List that gets the statistics of every call of batch norm, in the order of the calls.
        use: Statistics of an earlier pass, taken in the order of the calls instead of the batch's own:
            queries are then normalized by what the support has shown.
    """

    def __init__(self, keep: list[Statistics] | None = None, use: Sequence[Statistics] | None = None) -> None:
        self.keep, self.use, self.used = keep, use, 0

    def __enter__(self) -> None:
        """Activate it; the one activated last counts."""
        self._before = _active.set(self)

    def __exit__(self, *_: object) -> None:
        """Deactivate it."""
        _active.reset(self._before)


_active: ContextVar[TaskNorm | None] = ContextVar("quickstudy_task_norm", default=None)


def is_active() -> bool:
    """Whether a `TaskNorm` is active."""
    return _active.get() is not None


def uses_given_statistics() -> bool:
    """Whether an active `TaskNorm` gives the statistics."""
    norm = _active.get()
    return norm is not None and norm.use is not None


def needs_statistics() -> bool:
    """Whether an active `TaskNorm` records or gives statistics, so that the order of the calls matters."""
    norm = _active.get()
    return norm is not None and (norm.keep is not None or norm.use is not None)


def next_statistics() -> Statistics | None:
    """The statistics for this call of batch norm, where an active `TaskNorm` gives them."""
    norm = _active.get()
    if norm is None or norm.use is None:
        return None
    norm.used += 1
    return norm.use[norm.used - 1]


def record_statistics(mean: Tensor, variance: Tensor) -> None:
    """Record the statistics of this call of batch norm, where an active `TaskNorm` keeps them."""
    norm = _active.get()
    if norm and norm.keep is not None:
        norm.keep.append((mean.detach(), variance.detach()))


@contextmanager
def undone_on_error() -> Generator[None]:
    """Undo, after an error inside the block, what it recorded and took: for another try."""
    norm = _active.get()
    used, kept = (norm.used, len(norm.keep or ())) if norm else (0, 0)
    try:
        yield
    except BaseException:
        if norm:
            norm.used = used
            del (norm.keep or [])[kept:]
        raise
