"""Groups of tasks at the same time, each in a thread on cores of its own."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """`map`, in threads that divide torch's cores among them, so that none waits after every operation.

    Grad mode and autocast, which torch keeps for each thread, go along. Its modes and the hooks of saved
    tensors don't, as in torch's own `parallel_apply`. No thread outlives the call.

    Args:
        function: from an item to a result. It must change nothing that others see.
        items: results are in their order. The caller has one core until it has had the last.
        threads: how many; one is `map`.
    """
    if threads == 1:
        yield from map(function, items)
        return
    cores, wanted = torch.get_num_threads(), torch.is_grad_enabled()
    lower, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def call(item: Item) -> Result:
        with torch.set_grad_enabled(wanted), torch.autocast("cpu", dtype, enabled=lower):
            return function(item)

    # what the caller does with a result wants no helpers: after it they'd spin for milliseconds on busy cores
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, "tasks", torch.set_num_threads, (max(1, cores // threads),)) as pool:
            yield from pool.map(call, items)
    finally:
        torch.set_num_threads(cores)  # some libraries below keep one number for all threads
