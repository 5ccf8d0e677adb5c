"""The switch of the kernels, and what runs without them: one task after the other, by torch alone.

`QUICKSTUDY_KERNELS=0` in the environment turns them off for a process, `kernels(enabled=False)` for a block.
Results differ by rounding only. Whoever wants to know what the library computes can read `plain_per_task`
and leave out the rest of the kernels; whoever suspects them of an error can run without.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from quickstudy.core.adapt import Tensors
from quickstudy.core.kernels.task_norm import needs_statistics, next_statistics, record_statistics
from quickstudy.core.kernels.torch_private import BatchNorm, pytree


def _from_environment() -> bool:
    value = os.environ.get("QUICKSTUDY_KERNELS", "1")
    if value not in ("0", "1"):
        raise ValueError(
            f"QUICKSTUDY_KERNELS is {value!r}: set it to 1, the default, or to 0 for plain torch"
        )
    return value == "1"


_DEFAULT = _from_environment()
_enabled: ContextVar[bool] = ContextVar("quickstudy_kernels", default=_DEFAULT)


def kernels_enabled() -> bool:
    """Whether the kernels run here; else plain torch does."""
    return _enabled.get()


@contextmanager
def kernels(enabled: bool) -> Generator[None]:
    """Turn the kernels on or off for what this thread does inside the block.

    Args:
        enabled: False for plain torch.

    Example:
        >>> with kernels(enabled=False):
        ...     kernels_enabled()
        False
    """
    before = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(before)


def plain_per_task(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    """Apply a module to the items of T tasks, each with parameters of its own: what `per_task` means.

    Args:
        module: Any module from [B, ...] to [B, ...].
        parameters: [T, ...] for each of the module's parameters, by name.
        x: [T, B, ...] items.

    Returns:
        [T, B, ...].
    """
    places, results = list(parameter_places(module)), list[Tensor]()
    with PARAMETER_SWAP_LOCK, _statistics(module):
        for t, items in enumerate(x):
            own = {name: p[t] for name, p in parameters.items()}
            buffers = {name: b.clone() for name, b in module.named_buffers()}  # for tasks to write into
            results.append(call_with(module, places, own | buffers, items))
    return torch.stack(results)


@contextmanager
def _statistics(module: nn.Module) -> Generator[None]:
    """Let batch norm take and record statistics as an active `TaskNorm` says: by hooks, of torch's layers."""

    def give(norm: Any, _: Any) -> None:
        statistics = next_statistics()
        if statistics:
            norm.running_mean, norm.running_var = statistics

    def record(norm: Any, taken: Any, _: Tensor) -> None:
        if norm.running_mean is None:
            channels = taken[0].detach().transpose(0, 1).flatten(1)
            variance, mean = torch.var_mean(channels, 1, correction=0)
            record_statistics(mean, variance)
        norm.running_mean = norm.running_var = None

    norms = [m for m in module.modules() if isinstance(m, BatchNorm) and m.running_mean is None]
    wanted = norms if needs_statistics() else []
    hooks = [m.register_forward_pre_hook(give) for m in wanted]
    hooks += [m.register_forward_hook(record) for m in wanted]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for m in wanted:
            m.running_mean = m.running_var = None


PARAMETER_SWAP_LOCK = RLock()
"""Held while a call has put a task's parameters, or hooks, into a module: threads would see each other's."""


def call_with(module: nn.Module, places: Iterable[tuple[str, str]], own: Tensors, items: Tensor) -> Tensor:
    """`functional_call`, also of a module in which a layer or a weight is shared.

    Args:
        module: The module to call.
        places: Its `parameter_places`.
        own: Parameters and buffers by name.
        items: [B, ...] its argument.
    """
    # each place gets its tensor by name: torch, asked to tie them, leaves a shared layer changed
    everywhere = {place: own[name] for place, name in places if name in own}
    with PARAMETER_SWAP_LOCK:
        return functional_call(module, everywhere, (items,), tie_weights=False)


def parameter_places(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Where each parameter and buffer is, and its name, which is the first place of a shared one."""
    names: dict[int, str] = {}
    for prefix, layer in module.named_modules():
        for kind in (layer.named_parameters, layer.named_buffers):
            for local, tensor in kind(recurse=False, remove_duplicate=False):
                place = f"{prefix}.{local}" if prefix else local
                yield place, names.setdefault(id(tensor), place)


def for_each(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.func.vmap(function)`, or a loop where the kernels are off.

    Args:
        function: From tensors, or nests of them, without their first dimension to tensors or nests of them.
    """

    def loop(*arguments: Any) -> Any:
        leaves, form = pytree.tree_flatten(arguments)
        each = [function(*pytree.tree_unflatten(row, form)) for row in zip(*leaves, strict=True)]
        parts, form = zip(*map(pytree.tree_flatten, each), strict=True)
        return pytree.tree_unflatten([torch.stack(part) for part in zip(*parts, strict=True)], form[0])

    return vmap(function) if kernels_enabled() else loop
