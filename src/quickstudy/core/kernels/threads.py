"""Groups of tasks at the same time, each in a thread on cores of its own."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterable[Result]:
    """`map` in threads, each with its share of torch's intra-op threads, so that none waits for another.

    The caller is one of them. Grad mode, autocast and context variables, which are of one thread, go along to
    the others. Torch's function modes and the hooks of saved tensors don't, as in torch's own
    `parallel_apply`. No thread outlives the call.

    Args:
        function: From an item to a result. It must change nothing that others see.
        items: The items; results are in their order.
        threads: Number of threads, the caller included; one is `map`.
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
        # The caller works too, one thread less to start (1 to 3 % of the smallest step). It goes through the
        # items in their order: `cancel` is False for those that another thread has begun, and takes the
        # others away from them.
        own = {i: function(items[i]) for i, result in enumerate(begun) if result.cancel()}
        return [own[i] if i in own else result.result() for i, result in enumerate(begun)]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # some libraries below keep one number for all threads
