"""Layers for inner loops: tasks side by side, and second derivatives as fast as the first."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from quickstudy.kernel_sizes import sizes_on
from quickstudy.torch_private import aten

Pair = tuple[int, int]


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
    """3×3 convolutions with padding 1, each task with its own filters, by `convolution`.

    Args:
        x: [B, T · C, H, W] pictures, the channels of a task adjacent.
        weight: [T, D, C, 3, 3] filters.

    Returns:
        [B, T · D, H, W].
    """
    return convolution(x, filters_side_by_side(weight), padding=(1, 1), groups=len(weight))


def filters_side_by_side(weight: Tensor) -> Tensor:
    """[T, D, C, h, w] filters to [T · D, C, h, w], channels-last; no copy where they lie so already."""
    return weight.permute(0, 1, 3, 4, 2).contiguous().flatten(0, 1).permute(0, 3, 1, 2)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    """`F.conv2d`, differentiable any number of times at the speed of the first.

    Args:
        x: [B, C, H, W] pictures.
        weight: [D, C / groups, h, w] filters.
        bias: [D], or None.
        stride: Rows and columns between two outputs.
        padding: Rows and columns of zeros on every side.
        dilation: Rows and columns between two weights of a filter.
        groups: Groups of channels that are convolved apart from each other.

    Returns:
        [B, D, H', W']; in lower precision inside autocast, as `F.conv2d` would.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    y: Any = _Conv.apply(x, weight, bias, (stride, padding, dilation, groups))
    return y


def pool2x2(x: Tensor) -> Tensor:
    """2×2 max-pool of [B, C, H, W], differentiable any number of times."""
    y: Any = _Pool.apply(x)
    return y


def patches3x3(x: Tensor) -> Tensor:
    """[T, B, C, H, W] pictures to the 3×3 patches (padding 1) around their pixels, [T, 9 C, B, H, W].

    In float32 at least. Dimension 1 is that of filters: 9 numbers a channel.
    """
    height, width = x.shape[-2:]
    exact = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    framed = F.pad(exact.transpose(1, 2), (1, 1, 1, 1))
    # not F.unfold, which takes picture by picture and is ten times as slow
    shifted = [framed[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack(shifted, 2).flatten(1, 2)


def moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [T, 9 C] and biased covariance [T, 9 C, 9 C] of each task's patches.

    A 3×3 convolution by filters w has mean w·m and variance wᵀCw over positions and pictures: where there
    are few channels, as in pictures, batch norm needs no look at what the convolution has made of them.

    Args:
        patches: [T, 9 C, ...] patches, as `patches3x3` makes them.
    """
    with torch.autocast(patches.device.type, enabled=False):
        rows = patches.flatten(2)
        mean = rows.mean(2)
        rows = rows - mean.unsqueeze(2)
        return mean, rows @ rows.transpose(1, 2) / rows.shape[2]


def conv_pool_relu(x: Tensor, patches: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """ReLU of the 2×2 max-pool of 3×3 convolutions (padding 1) plus a shift, for pictures of few channels.

    There the activations are many times as large as the pictures; so it takes a few pictures at a time, and
    keeps only what is left after the pool. Twice differentiable.

    Args:
        x: [T, B, C, H, W] pictures. They get no gradient: see `conv3x3` where they need one.
        patches: [T, 9 C, B, H, W] their patches, by `patches3x3`: for the gradient of the filters.
        weight: [T, D, C, 3, 3] filters.
        shift: [T, D] numbers added to each filter's output.

    Returns:
        [B, T · D, H // 2, W // 2], channels-last; in lower precision inside autocast.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
    y: Any = _ConvPoolReLU.apply(x, patches, weight, shift.to(x.dtype))
    return y


def per_task_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[T, B, ..., C] by weights [T, D, C] and biases [T, D] to [T, B, ..., D]."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    rows, w = x.flatten(1, -2), weight.to(x.dtype).transpose(1, 2)
    y = torch.bmm(rows, w) if bias is None else torch.baddbmm(bias.to(x.dtype).unsqueeze(1), rows, w)
    return y if x.ndim == 3 else y.unflatten(1, x.shape[1:-1])


# Convolution is linear in the pictures and in the filters. So its gradients with respect to either are as
# well, and the three are each other's derivatives. Torch's own second derivative loops over the groups, and
# convolves with filters as large as the pictures.

_How = tuple[Pair, Pair, Pair, int]
"""Stride, padding, dilation and groups."""


def _gradients(g: Tensor, x: Tensor, w: Tensor, how: _How, wanted: tuple[bool, bool]) -> Any:
    stride, padding, dilation, groups = how
    return aten.convolution_backward(
        g, x, w, None, stride, padding, dilation, False, [0, 0], groups, [*wanted, False]
    )


class _Conv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, how: _How) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = how
        return torch.conv2d(x, w, bias, *how)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (g,) = grad_outputs
        x, w = ctx.saved_tensors
        pictures, filters, bias, _ = ctx.needs_input_grad
        to_bias = g.sum((0, 2, 3)) if bias else None
        if not torch.is_grad_enabled():
            return *_gradients(g, x, w, ctx.how, (pictures, filters))[:2], to_bias, None
        to_x = _InputGrad.apply(g, w, x, ctx.how) if pictures else None
        return to_x, _WeightGrad.apply(x, g, w, ctx.how) if filters else None, to_bias, None


class _InputGrad(Function):
    """The gradient with respect to the pictures; of `x` only the shape is used."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, x: Tensor, how: _How) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.how = how
        return _gradients(g, x, w, how, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (v,) = grad_outputs
        g, w = ctx.saved_tensors
        to_g = _Conv.apply(v, w, None, ctx.how) if ctx.needs_input_grad[0] else None
        return to_g, _WeightGrad.apply(v, g, w, ctx.how) if ctx.needs_input_grad[1] else None, None, None


class _WeightGrad(Function):
    """The gradient with respect to the filters; of `w` only the shape is used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, w: Tensor, how: _How) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.how = how
        return _gradients(g, x, w, how, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (v,) = grad_outputs
        x, g = ctx.saved_tensors
        to_x = _InputGrad.apply(g, v, x, ctx.how) if ctx.needs_input_grad[0] else None
        return to_x, _Conv.apply(x, v, None, ctx.how) if ctx.needs_input_grad[1] else None, None, None


# Max-pool gathers values by their indices, and its gradient scatters them back: each is the other's
# derivative. Torch's own second derivative adds zeros to the whole of what was pooled.


def pool_with_indices(x: Tensor) -> tuple[Tensor, Tensor]:
    """2×2 max-pool, and the index in its channel of each value picked; not differentiable."""
    return aten.max_pool2d_with_indices(x, [2, 2], [2, 2])


def _pool_into(x: Tensor, y: Tensor, indices: Tensor) -> None:
    aten.max_pool2d_with_indices.out(x, [2, 2], [2, 2], out=y, indices=indices)


def _unpool_into(x: Tensor, g: Tensor, indices: Tensor) -> Tensor:
    how = [2, 2], [2, 2], [0, 0], [1, 1], False
    return aten.max_pool2d_with_indices_backward.grad_input(g, x, *how, indices, grad_input=x)


def _empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last)


def flat_pixels(x: Tensor) -> Tensor:
    """Channels-last [B, C, H, W] as [B, H · W, C], a view: indices of a pool count its dimension 1."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _gather(v: Tensor, indices: Tensor) -> Tensor:
    return flat_pixels(v).gather(1, flat_pixels(indices)).unflatten(1, indices.shape[2:]).permute(0, 3, 1, 2)


class _Pool(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, indices = pool_with_indices(x)
        ctx.save_for_backward(indices)
        ctx.shape = x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return _MaxUnpool.apply(*grad_outputs, *ctx.saved_tensors, ctx.shape)


class _MaxUnpool(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, indices: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(indices)
        return _unpool_into(_empty(shape, g.dtype, g.device), g, indices)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (v,), (indices,) = grad_outputs, ctx.saved_tensors
        picked: Any = _Gather.apply(v, indices)
        return picked, None, None


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.shape = v.shape
        return _gather(v, indices)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return _MaxUnpool.apply(*grad_outputs, *ctx.saved_tensors, ctx.shape), None


# y = max(0, pool(x * w) + shift): for fixed indices and where ReLU passes, linear in filters and shift.


class _ConvPoolReLU(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, patches: Tensor, w: Tensor, shift: Tensor) -> Tensor:
        x, filters, how = side_by_side(x), filters_side_by_side(w), _how3x3(w)
        shape = len(x), len(filters), *(n // 2 for n in x.shape[2:])
        y, indices = (_empty(shape, dtype, x.device) for dtype in (x.dtype, torch.int64))
        added = shift.flatten()[:, None, None]
        # pooled straight into y: a pass less than to pool apart and add into it
        for items, out, at in _few(x, y, indices):
            _pool_into(torch.conv2d(items, filters, None, *how), out, at)
            out.add_(added).clamp_min_(0)
        ctx.save_for_backward(x, patches, w, y, indices)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        gradients = _ConvPoolReLUBackward.apply if torch.is_grad_enabled() else _conv_pool_relu_backward
        return None, None, *gradients(*grad_outputs, *ctx.saved_tensors)  # pyright: ignore


class _ConvPoolReLUBackward(Function):
    """The gradients with respect to the filters and the shift; of `w` only the shape is used."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, patches: Tensor, w: Tensor, y: Tensor, indices: Tensor
    ) -> Any:
        ctx.save_for_backward(x, y, indices)
        return _conv_pool_relu_backward(g, x, patches, w, y, indices)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator's type)
        ctx: Any, *grad_outputs: Tensor
    ) -> Any:
        x, y, indices = ctx.saved_tensors
        w, shift = grad_outputs
        filters, added, to_g = filters_side_by_side(w), shift.flatten()[:, None, None], torch.empty_like(y)
        for items, out, at in _few(x, to_g, indices):
            v = torch.conv2d(items, filters, None, *_how3x3(w))
            torch.add(_gather(v, at), added, out=out)
        return aten.threshold_backward(to_g, y, 0), None, None, None, None, None


def _conv_pool_relu_backward(
    g: Tensor, x: Tensor, patches: Tensor, w: Tensor, y: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor]:
    tasks, filters = w.shape[:2]
    to_w, to_shift = patches.new_zeros(tasks, patches.shape[1], filters), patches.new_zeros(tasks * filters)
    by_picture = patches.transpose(0, 2)  # [B, 9 C, T, H, W]
    few = min(len(x), _at_once(x))
    spread = _empty((few, tasks * filters, *x.shape[2:]), patches.dtype, x.device)
    with torch.autocast(x.device.type, enabled=False):
        for _, out, of_y, at, rows in _few(x, y, g, indices, by_picture):
            passed = aten.threshold_backward(of_y, out, 0).to(patches.dtype)
            to_shift += passed.sum((0, 2, 3))
            columns = _unpool_into(spread[: len(passed)], passed, at).permute(0, 2, 3, 1)
            columns = columns.reshape(-1, tasks, filters)  # [B · H · W, T, D]
            # not the convolution's own gradient, which for few channels is slower, and far so in bfloat16
            to_w += rows.transpose(0, 2).flatten(2) @ columns.transpose(0, 1)
    return to_w.transpose(1, 2).reshape(w.shape).to(w.dtype), to_shift.view(w.shape[:2]).to(w.dtype)


def _how3x3(w: Tensor) -> _How:
    return (1, 1), (1, 1), (1, 1), len(w)


def _few(x: Tensor, *beside: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few pictures of every task at a time, and what belongs to them."""
    n = _at_once(x)
    return zip(*(t.split(n) for t in (x, *beside)), strict=True)


def _at_once(x: Tensor) -> int:
    return max(1, sizes_on(x.device.type).first_block_numbers // x[0].numel())
