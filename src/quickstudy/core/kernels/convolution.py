"""Convolution and linear layer of tasks side by side, with second derivatives as fast as the first."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from quickstudy.core.kernels.torch_private import aten

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
How = tuple[Pair, Pair, Pair, int]
"""Stride, padding, dilation and groups."""


def _gradients(g: Tensor, x: Tensor, w: Tensor, how: How, wanted: tuple[bool, bool]) -> Any:
    stride, padding, dilation, groups = how
    return aten.convolution_backward(
        g, x, w, None, stride, padding, dilation, False, [0, 0], groups, [*wanted, False]
    )


class _Conv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, how: How) -> Tensor:
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
    def forward(ctx: Any, g: Tensor, w: Tensor, x: Tensor, how: How) -> Tensor:
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
    def forward(ctx: Any, x: Tensor, g: Tensor, w: Tensor, how: How) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.how = how
        return _gradients(g, x, w, how, (False, True))[1]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (v,) = grad_outputs
        x, g = ctx.saved_tensors
        to_x = _InputGrad.apply(g, v, x, ctx.how) if ctx.needs_input_grad[0] else None
        return to_x, _Conv.apply(x, v, None, ctx.how) if ctx.needs_input_grad[1] else None, None, None
