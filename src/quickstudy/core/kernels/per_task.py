"""`per_task`: a module applied to T tasks, each with its own parameters."""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
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
from quickstudy.core.kernels.switch import (
    PARAMETER_SWAP_LOCK,
    call_with,
    kernels_enabled,
    parameter_places,
    plain_per_task,
)
from quickstudy.core.kernels.task_norm import needs_statistics, undone_on_error
from quickstudy.core.kernels.torch_private import BatchNorm
from quickstudy.core.process import WARNING_FILTERS_LOCK


class HasForwardPerTask(Protocol):
    """A module that can run T tasks in one call; on a CPU it may be called by several threads at once."""

    def forward_per_task(self, parameters: Tensors, x: Tensor) -> Tensor:
        """`forward` for T tasks, each with its own parameters.

        Args:
            parameters: Parameters of the module by name, each [T, ...].
            x: [T, B, ...] items.

        Returns:
            [T, B, ...] outputs.
        """
        ...


def per_task(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    """Apply a module to the items of T tasks, each with its own parameters.

    `plain_per_task`, a loop, defines the result, and runs instead if the kernels are off. With the kernels,
    modules that have `forward_per_task` run all tasks in one call, and so do stacks of linear layers and
    activations. Other modules run by vmap, if they support it and if items are vectors or a task has few
    pictures. All remaining modules run task by task with the layers of `FastOps`, which is exact for any
    module.

    Args:
        module: Any module from [B, ...] to [B, ...]. Each task writes into its own copies of the buffers.
        parameters: Parameters of the module by name, each [T, ...].
        x: [T, B, ...] items.

    Returns:
        [T, B, ...] outputs.
    """
    if not kernels_enabled():
        return plain_per_task(module, parameters, x)
    if has_forward_per_task(module):
        return module.forward_per_task(parameters, x)
    if _is_pointwise(module) and _has_no_twins(module):
        return _pointwise(module, parameters, x)
    with PARAMETER_SWAP_LOCK:
        return _lent(module, parameters, x)


def in_turn(model: nn.Module) -> AbstractContextManager[object]:
    """Context of what a learner does with a model: one thread at a time, unless none writes to it.

    Args:
        model: Model that an inner loop adapts; its `encoder`, if it has one, may be called by itself.
    """
    return nullcontext() if kernels_enabled() and runs_at_once(model) else PARAMETER_SWAP_LOCK


def runs_at_once(model: nn.Module) -> bool:
    """Whether a model and its encoder, if it has one, run all tasks in one call, and so are never written to.

    Args:
        model: Model that an inner loop adapts.
    """
    return all(map(has_forward_per_task, (model, getattr(model, "encoder", model))))


def _lent(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    """`per_task` of a module that is lent the parameters of each task."""
    # Two ways are simply tried: what vmap and `view` refuse can depend on values, on the mode and on sizes,
    # so it cannot be predicted. A module that was refused once is not tried again.
    if _is_small(x) and module not in _UNMAPPABLE and not list(module.buffers()):
        try:
            return _mapped(module, parameters, x)
        except (RuntimeError, UserWarning):  # random, control flow by values, no vmap rule
            _UNMAPPABLE.add(module)
    if x.ndim == 5 and module not in _CONTIGUOUS:  # pictures, in the fastest layout
        try:
            return _one_by_one(module, parameters, [channels_last(items) for items in x])
        except RuntimeError as error:
            if "view size is not compatible" not in str(error):
                raise
            _CONTIGUOUS.add(module)
    return _one_by_one(module, parameters, x)


_UNMAPPABLE: WeakSet[nn.Module] = WeakSet()
"""Modules that failed under vmap."""
_CONTIGUOUS: WeakSet[nn.Module] = WeakSet()
"""Modules with a `view` that fails on channels-last activations."""


def _is_small(x: Tensor) -> bool:
    """Whether items are vectors, or the pictures of a task few enough for all tasks to share the caches."""
    limit = sizes_on(x.device.type).vmapped_task_numbers
    return x.ndim == 3 or (x.ndim == 5 and x[0].numel() < limit and not needs_statistics())


def _mapped(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    with undone_on_error(), WARNING_FILTERS_LOCK, warnings.catch_warnings():
        # vmap would then loop, more slowly than `_one_by_one`
        warnings.filterwarnings("error", "There is a performance drop")
        return vmap(partial(_call, module, list(parameter_places(module))))(parameters, x)


def _one_by_one(module: nn.Module, parameters: Tensors, x: Iterable[Tensor]) -> Tensor:
    places, buffers = list(parameter_places(module)), dict(module.named_buffers())
    # not p[t]: its gradient would be a tensor of all tasks, zeros for the others
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
    """Refuse batch norm that would write its running statistics, one set for all tasks and adapted weights.

    In evaluation mode they are constants, and welcome.

    Args:
        module: Module that an inner loop adapts.

    Raises:
        ValueError: If a batch norm layer in training mode keeps running statistics; the message names the
            first.
    """
    for name, m in module.named_modules():
        if isinstance(m, BatchNorm) and m.training and m.track_running_stats:
            raise ValueError(
                f"{name or 'the module'} keeps running statistics, which an inner loop can't adapt: build it "
                "with track_running_stats=False (Conv4(running_statistics=False)), or freeze it by "
                "encoder.eval().requires_grad_(False), after any learner.train()"
            )


def has_constant_statistics(module: nn.Module) -> bool:
    """Whether a batch norm layer has running statistics, which in an inner loop are constants.

    Args:
        module: Any module.
    """
    # `plain_per_task` lends others statistics for a moment, which a thread with the kernels must not see here
    norms = (m for m in module.modules() if isinstance(m, BatchNorm) and m.track_running_stats)
    return any(m.running_mean is not None for m in norms)


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
    """Whether a module has a `forward_per_task` that belongs to its `forward`.

    A subclass that overrides `forward` alone does not inherit `forward_per_task`. Nor does it count where
    batch norm has constant statistics, because `forward_per_task` takes those of the batch.

    Args:
        module: Any module.
    """
    if has_constant_statistics(module):
        return False
    for kind in type(module).__mro__:
        own = vars(kind)
        if "forward_per_task" in own or "forward" in own:
            return "forward_per_task" in own
    return False


def _has_no_twins(module: nn.Module) -> bool:
    """Whether no layer and no parameter is shared (tied), so that each has exactly one name."""
    return all(
        len(list(named())) == len(list(named(remove_duplicate=False)))
        for named in (module.named_modules, module.named_parameters)
    )


def _is_pointwise(module: nn.Module) -> bool:
    """Whether a module is a linear layer, an activation or a stack of them; subclasses don't count."""
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
    """Parameters of one submodule, by their names inside it.

    Args:
        name: Name of the submodule.
        parameters: Parameters of the whole module, by name.
    """
    return {k.removeprefix(f"{name}."): p for k, p in parameters.items() if k.startswith(f"{name}.")}
