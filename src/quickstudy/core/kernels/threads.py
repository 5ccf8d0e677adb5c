"""Running groups of tasks at the same time, each in a thread with its own cores, and what threads share."""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from threading import Lock, RLock
from typing import TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Item = TypeVar("Item")
Result = TypeVar("Result")

WARNING_FILTERS_LOCK = RLock()
"""Held around `warnings.catch_warnings`, whose filters are those of the whole process."""


class _Backend:
    """The backend of attention, which torch sets for the whole process, and the threads that ask for it."""

    def __init__(self) -> None:
        self.lock, self.users, self.setting = Lock(), 0, ExitStack()


_backend = _Backend()


@contextmanager
def math_attention() -> Generator[None]:
    """Context in which attention can be differentiated twice: of torch's backends one alone can be.

    The first thread that enters sets it and the last that leaves restores it, so threads don't undo each
    other's setting.
    """
    with _backend.lock:
        if not _backend.users:
            _backend.setting.enter_context(sdpa_kernel(SDPBackend.MATH))
        _backend.users += 1
    try:
        yield
    finally:
        with _backend.lock:
            _backend.users -= 1
            if not _backend.users:
                _backend.setting.close()


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterable[Result]:
    """`map` in threads, each with its share of torch's intra-op threads, so that none waits for another.

    The calling thread is one of them. The others inherit its grad mode, autocast and context variables, but
    not torch's function modes and saved-tensor hooks, as in torch's own `parallel_apply`. All threads end
    with the call.

    Args:
        function: Function from an item to a result; it must not change any state that other threads see.
        items: Items to map.
        threads: Number of threads, including the calling one; 1 is plain `map`.

    Returns:
        Results, in the order of the items.
    """
    if threads == 1:
        return map(function, items)
    cores, wanted = torch.get_num_threads(), torch.is_grad_enabled()
    lower, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def call(item: Item) -> Result:
        with torch.set_grad_enabled(wanted), torch.autocast("cpu", dtype, enabled=lower):
            return function(item)

    each = max(1, cores // threads)
    torch.set_num_threads(each)
    pool = ThreadPoolExecutor(threads - 1, "tasks", torch.set_num_threads, (each,))
    try:
        begun = [pool.submit(copy_context().run, call, item) for item in items]
        # The calling thread works too, which saves the start of one thread (1 to 3 % of the smallest step).
        # It goes through the items in order: `cancel` returns False for an item that another thread has
        # begun, and otherwise removes it from the queue, so that it is computed here.
        own = {i: function(items[i]) for i, result in enumerate(begun) if result.cancel()}
        return [own[i] if i in own else result.result() for i, result in enumerate(begun)]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # some backends keep one number for all threads
