"""The switch that turns the kernels off, and the plain torch code, task by task, that then runs instead.

`QUICKSTUDY_KERNELS=0` in the environment turns them off for a process, `kernels(enabled=False)` for a block.
Results differ by rounding only. To learn what the library computes, read `plain_per_task` and skip the other
kernels; to find out whether an error lies in the kernels, run without them.
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
from quickstudy.core.errors import WrongTypeError
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
    """Whether the kernels are on in the current context; if not, plain torch runs."""
    return _enabled.get()


@contextmanager
def kernels(enabled: bool) -> Generator[None]:
    """Turn the kernels on or off inside the block, in the current thread.

    Args:
        enabled: Whether the kernels run; False for plain torch.

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
    """Apply a module to the items of T tasks, each with its own parameters: the definition of `per_task`.

    Args:
        module: Any module from [B, ...] to [B, ...].
        parameters: Parameters of the module by name, each [T, ...].
        x: [T, B, ...] items.

    Returns:
        [T, B, ...] outputs.
    """
    results: list[Tensor] = []
    with PARAMETER_SWAP_LOCK, _statistics(module):
        places = list(parameter_places(module))
        for t, items in enumerate(x):
            own = {name: p[t] for name, p in parameters.items()}
            buffers = {name: b.clone() for name, b in module.named_buffers()}  # copies to write into
            results.append(call_with(module, places, own | buffers, items))
    return torch.stack(results)


@contextmanager
def _statistics(module: nn.Module) -> Generator[None]:
    """Make torch's batch norm layers take and record statistics as an active `TaskNorm` says, by hooks."""

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
"""Held while a module contains the parameters or hooks of one call.

Whoever reads the module holds it as well, from the first read to the last: a lock around the writing alone
would let other threads read what is only lent to the module. It is one lock for all, as modules may share
layers.
"""


def call_with(module: nn.Module, places: Iterable[tuple[str, str]], own: Tensors, items: Tensor) -> Tensor:
    """`torch.func.functional_call` that also supports modules with shared (tied) layers or weights.

    Args:
        module: Module to call.
        places: Places and names of the module's parameters and buffers, from `parameter_places`.
        own: Parameters and buffers to use instead of the module's own, by name.
        items: [B, ...] input of the module.

    Returns:
        Output of the module.
    """
    # each place gets its tensor explicitly, because with tie_weights torch leaves a shared layer changed
    everywhere = {place: own[name] for place, name in places if name in own}
    with PARAMETER_SWAP_LOCK:
        return the_tensor(functional_call(module, everywhere, (items,), tie_weights=False), "the model")


def the_tensor(output: Any, maker: str) -> Tensor:
    """The output of a module, if it is a tensor.

    Args:
        output: What the module returned.
        maker: What to call the module, for the message.

    Raises:
        TypeError: If it is something else; the message says which of its parts might be meant.
    """
    if isinstance(output, Tensor):
        return output
    names = [k for k, v in dict(output).items() if isinstance(v, Tensor)] if hasattr(output, "keys") else []
    one = f'["{names[-1]}"]' if names else "[0]"
    raise WrongTypeError(
        f"{maker} gave a {type(output).__name__}"
        + (f" of {', '.join(names)}" if names else "")
        + f": wrap it in a module whose forward returns one tensor, such as self.inner(x){one}"
    )


def parameter_places(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs (place, name) of all parameters and buffers; a shared one has several places.

    Its name is the first of its places, as in `named_parameters`.

    Args:
        module: Any module.
    """
    names: dict[int, str] = {}
    for prefix, layer in module.named_modules():
        for kind in (layer.named_parameters, layer.named_buffers):
            for local, tensor in kind(recurse=False, remove_duplicate=False):
                place = f"{prefix}.{local}" if prefix else local
                yield place, names.setdefault(id(tensor), place)


def for_each(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.func.vmap(function)`, or an equivalent loop if the kernels are off.

    Args:
        function: Function from tensors, or nested structures of them, without their first dimension to
            tensors, or nested structures of them.
    """

    def loop(*arguments: Any) -> Any:
        leaves, form = pytree.tree_flatten(arguments)
        each = [function(*pytree.tree_unflatten(row, form)) for row in zip(*leaves, strict=True)]
        parts, form = zip(*map(pytree.tree_flatten, each), strict=True)
        return pytree.tree_unflatten([torch.stack(part) for part in zip(*parts, strict=True)], form[0])

    return vmap(function) if kernels_enabled() else loop
