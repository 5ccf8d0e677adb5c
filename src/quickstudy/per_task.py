"""A module applied to tasks each of which has parameters of its own."""

import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from quickstudy.adapt import Tensors
from quickstudy.batchnorm import Replaced, position, rewind

_aten = torch.ops.aten


@runtime_checkable
class OfTasks(Protocol):
    """A module that can run tasks side by side."""

    def of_tasks(self, parameters: Tensors, x: Tensor) -> Tensor:
        """Its `forward` for T tasks: parameters [T, ...] and items [T, B, ...] to [T, B, ...]."""
        ...


def per_task(module: nn.Module, parameters: Tensors, x: Tensor) -> Tensor:
    """Apply a module to the items of T tasks, each with parameters of its own.

    Modules that have `of_tasks` run all tasks in one call, and so do stacks of linear layers and activations,
    and, by vmap, other modules of plain vectors that can. Any other runs task by task, by
    `torch.func.functional_call`: exact whatever it consists of. Its buffers are handed to each task as
    copies, so tasks can't write into the module.

    Args:
        module: from [B, ...] to [B, ...].
        parameters: [T, ...] for each of its parameters, by name.
        x: [T, B, ...] items.

    Returns:
        [T, B, ...].
    """
    if isinstance(module, OfTasks) and _matches_its_forward(type(module)):
        return module.of_tasks(parameters, x)
    if _is_pointwise(module) and _has_no_twins(module):
        return _pointwise(module, parameters, x)
    start = position()
    buffers = dict(module.named_buffers())
    if x.ndim == 3 and not buffers and module not in _UNMAPPABLE:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "error", "There is a performance drop"
                )  # it would loop, more slowly than we
                return vmap(partial(_call, module))(parameters, x)
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


_UNMAPPABLE: WeakSet[nn.Module] = WeakSet()
"""Modules that vmap has refused."""
_CONTIGUOUS: WeakSet[nn.Module] = WeakSet()
"""Modules whose `view` takes the usual layout for granted, so that theirs can't be channels-last."""


def _one_by_one(module: nn.Module, parameters: Tensors, buffers: Tensors, x: Iterable[Tensor]) -> Tensor:
    each: list[Tensor] = []
    for t, items in enumerate(x):
        own = {k: p[t] for k, p in parameters.items()} | {k: b.clone() for k, b in buffers.items()}
        each.append(_call(module, own, items))
    return torch.stack(each)


def _call(module: nn.Module, own: Tensors, items: Tensor) -> Tensor:
    # each place gets its tensor by name: torch, asked to tie them, leaves a layer that stands twice changed
    everywhere = {place: own[name] for place, name in _places(module) if name in own}
    with Replaced():
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


def channels_last(x: Tensor) -> Tensor:
    """The same pictures in channels-last strides.

    With one channel `.contiguous(memory_format=...)` sees nothing to do and leaves strides that make
    the convolution choose the slow layout; so the strides are forced.
    """
    _, c, h, w = x.shape
    if c == 1:
        return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))
    return x.contiguous(memory_format=torch.channels_last)


def side_by_side(x: Tensor) -> Tensor:
    """[T, B, C, H, W] pictures to [B, T · C, H, W], channels-last: what `conv3x3` takes."""
    return channels_last(x.transpose(0, 1).flatten(1, 2))


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """3×3 convolutions with padding 1, each task with its own filters, differentiable any number of times.

    Args:
        x: [B, T · C, H, W] pictures, the channels of a task adjacent.
        weight: [T, D, C, 3, 3].

    Returns:
        [B, T · D, H, W]; in lower precision inside autocast, as `F.conv2d` would.
    """
    w = weight.flatten(0, 1)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, w = x.to(dtype), w.to(dtype)
    y: Any = _Conv.apply(x, w.contiguous(memory_format=torch.channels_last), weight.shape[0])
    return y


def pool2x2(x: Tensor) -> Tensor:
    """2×2 max-pool of [B, C, H, W], differentiable any number of times."""
    y: Any = _Pool.apply(x)
    return y


def patch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [T, 9 C] and biased covariance [T, 9 C, 9 C] of the 3×3 patches (padding 1) of a task's pictures.

    A 3×3 convolution by filters w has mean w·m and variance wᵀCw over positions and pictures: where there
    are few channels, as in pictures, batch norm needs no look at what the convolution has made of them.

    Args:
        x: [T, B, C, H, W].
    """
    with torch.autocast(x.device.type, enabled=False):
        patches = F.unfold(x.flatten(0, 1), 3, padding=1).unflatten(0, x.shape[:2])
        rows = patches.transpose(1, 2).flatten(2)  # [T, 9 C, B · H · W]
        mean = rows.mean(2)
        rows = rows - mean.unsqueeze(2)
        return mean, rows @ rows.transpose(1, 2) / rows.shape[2]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[T, B, ..., C] by weights [T, D, C] and biases [T, D] to [T, B, ..., D]."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    rows, w = x.flatten(1, -2), weight.to(x.dtype).transpose(1, 2)
    y = torch.bmm(rows, w) if bias is None else torch.baddbmm(bias.to(x.dtype).unsqueeze(1), rows, w)
    return y.unflatten(1, x.shape[1:-1])


# Convolution is linear in the pictures and in the filters. So its gradients with respect to either are as
# well, and the three are each other's derivatives. Torch's own second derivative loops over the groups.


def _gradients(g: Tensor, x: Tensor, w: Tensor, groups: int, wanted: tuple[bool, bool]) -> Any:
    return _aten.convolution_backward(
        g, x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], groups, [*wanted, False]
    )


class _Conv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.groups = groups
        return torch.conv2d(x, w, None, 1, 1, 1, groups)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (g,) = grad_outputs
        x, w = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        if not torch.is_grad_enabled():
            return *_gradients(g, x, w, ctx.groups, wanted)[:2], None
        to_x = _ToPictures.apply(g, w, x, ctx.groups) if wanted[0] else None
        return to_x, _ToFilters.apply(x, g, w, ctx.groups) if wanted[1] else None, None


class _ToPictures(Function):
    """Gradient of the pictures; `x` is for its shape only."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, x: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.groups = groups
        return _gradients(g, x, w, groups, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (v,) = grad_outputs
        g, w = ctx.saved_tensors
        to_g = _Conv.apply(v, w, ctx.groups) if ctx.needs_input_grad[0] else None
        return to_g, _ToFilters.apply(v, g, w, ctx.groups) if ctx.needs_input_grad[1] else None, None, None


class _ToFilters(Function):
    """Gradient of the filters; `w` is for its shape only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, w: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.groups = groups
        return _gradients(g, x, w, groups, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (v,) = grad_outputs
        x, g = ctx.saved_tensors
        to_x = _ToPictures.apply(g, v, x, ctx.groups) if ctx.needs_input_grad[0] else None
        return to_x, _Conv.apply(x, v, ctx.groups) if ctx.needs_input_grad[1] else None, None, None


# Max-pool picks values, and its gradient puts values back in their places; each is the other's derivative.
# Torch's own second derivative adds zeros to the whole of what was pooled.


class _Pool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, places = _aten.max_pool2d_with_indices(x, [2, 2], [2, 2])
        ctx.save_for_backward(places)
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return _PutBack.apply(*grad_outputs, *ctx.saved_tensors, ctx.shape)


class _PutBack(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(places)
        like = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
        return _aten.max_pool2d_with_indices_backward(g, like, [2, 2], [2, 2], [0, 0], [1, 1], False, places)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (v,), (places,) = grad_outputs, ctx.saved_tensors
        picked: Any = _Pick.apply(v, places)
        return picked, None, None


class _Pick(Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = v.shape
        picked = v.flatten(2).gather(2, places.flatten(2)).view(places.shape)
        return picked.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return _PutBack.apply(*grad_outputs, *ctx.saved_tensors, ctx.shape), None


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


def _matches_its_forward(kind: type) -> bool:
    """Whether `of_tasks` was written for this `forward`, or by a base whose `forward` was replaced since."""
    return next("of_tasks" in vars(k) for k in kind.__mro__ if {"of_tasks", "forward"} & vars(k).keys())


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
