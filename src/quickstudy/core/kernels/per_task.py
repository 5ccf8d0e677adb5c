"""A module applied to tasks each of which has parameters of its own."""

import warnings
from collections.abc import Iterable
from functools import partial
from typing import Protocol, TypeGuard
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import vmap

from quickstudy.core.adapt import Tensors
from quickstudy.core.kernels.convolution import channels_last, per_task_linear
from quickstudy.core.kernels.overrides import FastOps
from quickstudy.core.kernels.sizes import sizes_on
from quickstudy.core.kernels.switch import call_with, kernels_enabled, parameter_places, plain_per_task
from quickstudy.core.kernels.task_norm import needs_statistics, undone_on_error
from quickstudy.core.kernels.torch_private import BatchNorm


class HasForwardPerTask(Protocol):
    """A module that can run tasks side by side; on a CPU several groups of them at once, each in a thread."""

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """Its `forward` for T tasks: parameters [T, ...] and items [T, B, ...] to [T, B, ...]."""
        ...


def per_task(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    """Apply a module to the items of T tasks, each with parameters of its own.

    `plain_per_task`, a loop, says what this means, and runs where the kernels are off. With them, modules
    that have `forward_per_task` run all tasks in one call, and so do stacks of linear layers and activations,
    and, by vmap, other modules that can, of plain vectors or a few pictures a task. Any other module runs
    task by task, exact whatever it consists of, with our layers in the place of torch's.

    Args:
        module: Any module from [B, ...] to [B, ...]. Each task writes into copies of its buffers.
        parameters: [T, ...] for each of the module's parameters, by name.
        x: [T, B, ...] items.

    Returns:
        [T, B, ...].
    """
    if not kernels_enabled():
        return plain_per_task(module, parameters, x)
    if has_forward_per_task(module):
        return module.forward_per_task(parameters, x)
    if _is_pointwise(module) and _has_no_twins(module):
        return _pointwise(module, parameters, x)
    # Two ways are tried, not known beforehand: what vmap and `view` refuse can depend on values, on the mode
    # and on the sizes. What was refused once is remembered.
    if _is_small(x) and module not in _UNMAPPABLE and not list(module.buffers()):
        try:
            return _mapped(module, parameters, x)
        except (RuntimeError, UserWarning):  # randomness, control flow by values, a layer that has no rule
            _UNMAPPABLE.add(module)
    if x.ndim == 5 and module not in _CONTIGUOUS:  # pictures, in the layout convolutions are fastest in
        try:
            return _one_by_one(module, parameters, [channels_last(items) for items in x])
        except RuntimeError as error:
            if "view size is not compatible" not in str(error):
                raise
            _CONTIGUOUS.add(module)
    return _one_by_one(module, parameters, x)


_UNMAPPABLE: WeakSet[nn.Module] = WeakSet()
"""Modules that vmap has refused."""
_CONTIGUOUS: WeakSet[nn.Module] = WeakSet()
"""Modules whose `view` takes the usual layout for granted, so that pictures can't be channels-last."""


def _is_small(x: Tensor) -> bool:
    """Whether items are plain vectors or few pictures a task: larger ones leave the caches side by side."""
    limit = sizes_on(x.device.type).vmapped_task_numbers
    return x.ndim == 3 or (x.ndim == 5 and x[0].numel() < limit and not needs_statistics())


def _mapped(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    with undone_on_error(), warnings.catch_warnings():
        # it would loop, more slowly than we
        warnings.filterwarnings("error", "There is a performance drop")
        return vmap(partial(_call, module, list(parameter_places(module))))(parameters, x)


def _one_by_one(module: nn.Module, parameters: Tensors, x: Iterable[Tensor]) -> Tensor:
    places, buffers = list(parameter_places(module)), dict(module.named_buffers())
    # not p[t], whose gradient would be zeros for all other tasks
    unbound = {k: p.unbind() for k, p in parameters.items()}
    each: list[Tensor] = []
    with undone_on_error():
        for t, items in enumerate(x):
            own = {k: p[t] for k, p in unbound.items()} | {k: b.clone() for k, b in buffers.items()}
            each.append(_call(module, places, own, items))
    return torch.stack(each)


def _call(module: nn.Module, places: Iterable[tuple[str, str]], own: Tensors, items: Tensor) -> Tensor:
    with FastOps():
        return call_with(module, places, own, items)


def check_batch_norm(module: nn.Module) -> None:
    """Refuse running statistics: every task would write them, and no task's adapted weights would fit them.

    Raises:
        ValueError: If a batch norm keeps them; the message names the first.
    """
    for name, m in module.named_modules():
        if isinstance(m, BatchNorm) and m.track_running_stats:
            raise ValueError(
                f"{name or 'the module'} keeps running statistics, which an inner loop can't adapt: build it "
                "with track_running_stats=False (Conv4(running_statistics=False))"
            )


_POINTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
    nn.Identity,
    nn.Dropout,
)


def has_forward_per_task(module: nn.Module) -> TypeGuard[HasForwardPerTask]:
    """Whether a module has `forward_per_task`, and not that of a base class whose `forward` it overrides."""
    for kind in type(module).__mro__:
        own = vars(kind)
        if "forward_per_task" in own or "forward" in own:
            return "forward_per_task" in own
    return False


def _has_no_twins(module: nn.Module) -> bool:
    """Whether no layer and no parameter is shared (tied), so that each has a name of its own."""
    return all(
        len(list(named())) == len(list(named(remove_duplicate=False)))
        for named in (module.named_modules, module.named_parameters)
    )


def _is_pointwise(module: nn.Module) -> bool:
    """Whether it is a linear layer, an activation, or a stack: by exact type, since subclasses may differ."""
    if type(module) is nn.Sequential:
        return all(map(_is_pointwise, module))
    return type(module) is nn.Linear or type(module) in _POINTWISE


def _pointwise(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    if isinstance(module, nn.Sequential):
        for name, layer in module.named_children():
            x = _pointwise(layer, below(name, parameters), x)
        return x
    return per_task_linear(x, parameters["weight"], parameters.get("bias")) if parameters else module(x)


def below(name: str, parameters: Tensors) -> Tensors:
    """The parameters of the submodule `name`, by their names in it."""
    return {k.removeprefix(f"{name}."): p for k, p in parameters.items() if k.startswith(f"{name}.")}
