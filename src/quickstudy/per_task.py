"""A module applied to tasks each of which has parameters of its own."""

import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from threading import RLock
from typing import Protocol, TypeGuard
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from quickstudy.adapt import Tensors
from quickstudy.batchnorm import is_noting, position, rewind
from quickstudy.layers import channels_last, linear
from quickstudy.substitutes import Replaced


class OfTasks(Protocol):
    """A module that can run tasks side by side; on a CPU several groups of them at once, each in a thread."""

    def of_tasks(self, parameters: Tensors, x: Tensor) -> Tensor:
        """Its `forward` for T tasks: parameters [T, ...] and items [T, B, ...] to [T, B, ...]."""
        ...


def per_task(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    """Apply a module to the items of T tasks, each with parameters of its own.

    Modules that have `of_tasks` run all tasks in one call, and so do stacks of linear layers and activations,
    and, by vmap, other modules that can, of plain vectors or a few pictures a task. Any other runs task by
    task, by `torch.func.functional_call`: exact whatever it consists of. Its buffers are handed to each task
    as copies, so tasks can't write into the module.

    Args:
        module: from [B, ...] to [B, ...].
        parameters: [T, ...] for each of its parameters, by name.
        x: [T, B, ...] items.

    Returns:
        [T, B, ...].
    """
    if runs_tasks(module):
        return module.of_tasks(parameters, x)
    if _is_pointwise(module) and _has_no_twins(module):
        return _pointwise(module, parameters, x)
    start = position()
    buffers = dict(module.named_buffers())
    small = x.ndim == 3 or (x.ndim == 5 and x[0].numel() < PICTURES_SIDE_BY_SIDE and not is_noting())
    if small and not buffers and module not in _UNMAPPABLE:
        try:
            with warnings.catch_warnings():
                # it would loop, more slowly than we
                warnings.filterwarnings("error", "There is a performance drop")
                return vmap(partial(_call, module, list(_places(module))))(parameters, x)
        except (RuntimeError, UserWarning):  # randomness, control flow by values, a layer that has no rule
            _UNMAPPABLE.add(module)
            rewind(*start)
    if x.ndim == 5 and module not in _CONTIGUOUS:  # pictures, in the layout convolutions are fastest in
        try:
            return _one_by_one(module, parameters, buffers, [channels_last(items) for items in x])
        except RuntimeError as error:
            if "view size is not compatible" not in str(error):
                raise
            _CONTIGUOUS.add(module)
            rewind(*start)
    return _one_by_one(module, parameters, buffers, x)


PICTURES_SIDE_BY_SIDE = 2**14
"""Numbers in the pictures of a task, from which on any module but ours is faster task by task, since its
activations then stay near the caches (measured)."""
_UNMAPPABLE: WeakSet[nn.Module] = WeakSet()
"""Modules that vmap has refused."""
_CONTIGUOUS: WeakSet[nn.Module] = WeakSet()
"""Modules whose `view` takes the usual layout for granted, so that theirs can't be channels-last."""
_HANDS_OFF = RLock()
"""While a call has put a task's parameters into the module."""


def _one_by_one(module: nn.Module, parameters: Tensors, buffers: Tensors, x: Iterable[Tensor]) -> Tensor:
    places = list(_places(module))
    # not p[t], whose gradient would be zeros for all other tasks
    unbound = {k: p.unbind() for k, p in parameters.items()}
    each: list[Tensor] = []
    for t, items in enumerate(x):
        own = {k: p[t] for k, p in unbound.items()} | {k: b.clone() for k, b in buffers.items()}
        each.append(_call(module, places, own, items))
    return torch.stack(each)


def _call(module: nn.Module, places: Iterable[tuple[str, str]], own: Tensors, items: Tensor) -> Tensor:
    # each place gets its tensor by name: torch, asked to tie them, leaves a layer that stands twice changed
    everywhere = {place: own[name] for place, name in places if name in own}
    with _HANDS_OFF, Replaced():
        return functional_call(module, everywhere, (items,), tie_weights=False)


def _places(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Where each parameter and buffer stands, once a layer, and the name it goes by."""
    names: dict[int, str] = {}
    for prefix, layer in module.named_modules():
        for kind in (layer.named_parameters, layer.named_buffers):
            for local, tensor in kind(recurse=False, remove_duplicate=False):
                place = f"{prefix}.{local}" if prefix else local
                yield place, names.setdefault(id(tensor), place)


def check_batch_norm(module: nn.Module) -> None:
    """Refuse running statistics: the steps of a task would write them, and its weights would not fit them.

    Raises:
        ValueError: names the first batch norm that has them.
    """
    for name, m in module.named_modules():
        if isinstance(m, _BatchNorm) and m.track_running_stats:
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


def runs_tasks(module: nn.Module) -> TypeGuard[OfTasks]:
    """Whether it has an `of_tasks`, and not one of a base whose `forward` was replaced since."""
    for kind in type(module).__mro__:
        own = vars(kind)
        if "of_tasks" in own or "forward" in own:
            return "of_tasks" in own
    return False


def _has_no_twins(module: nn.Module) -> bool:
    """Whether no layer and no parameter stands in several places, of which only the first has a name."""
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
    return linear(x, parameters["weight"], parameters.get("bias")) if parameters else module(x)


def below(name: str, parameters: Tensors) -> Tensors:
    """The parameters of the submodule `name`, by their names in it."""
    return {k.removeprefix(f"{name}."): p for k, p in parameters.items() if k.startswith(f"{name}.")}
