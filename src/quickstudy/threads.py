"""Groups of tasks at the same time, each in a thread on cores of its own."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterable[Result]:
    """`map`, in threads that divide torch's cores among them, so that none waits after every operation.

    The caller is one of them. Grad mode and autocast, which torch keeps for each thread, go along to the
    others. Its modes and the hooks of saved tensors don't, as in torch's own `parallel_apply`. No thread
    outlives the call.

    Args:
        function: from an item to a result. It must change nothing that others see.
        items: results are in their order.
        threads: how many; one is `map`.
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
        begun = [pool.submit(call, item) for item in items]
        # those that none of the others has begun are the caller's
        own = {i: function(items[i]) for i, result in enumerate(begun) if result.cancel()}
        return [own[i] if i in own else result.result() for i, result in enumerate(begun)]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # some libraries below keep one number for all threads
