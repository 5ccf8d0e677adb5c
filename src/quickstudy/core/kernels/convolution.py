"""Convolutions and linear layers for a batch of tasks, with second derivatives as fast as the first."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from quickstudy.core.kernels.torch_private import aten

Pair = tuple[int, int]


def channels_last(x: Tensor) -> Tensor:
    """Pictures [B, C, H, W] in channels-last memory layout.

    With one channel both layouts agree, so `.contiguous(memory_format=...)` changes nothing, and leaves
    strides for which the convolution chooses the slow layout. The strides are therefore set by hand.
    """
    _, c, h, w = x.shape
    if c == 1:
        return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))
    return x.contiguous(memory_format=torch.channels_last)


def side_by_side(x: Tensor) -> Tensor:
    """Pictures [T, B, C, H, W] with the tasks joined as channels: [B, T · C, H, W], channels-last."""
    return channels_last(x.transpose(0, 1).flatten(1, 2))


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """3×3 convolutions with padding 1 for T tasks, each with its own filters, by `convolution`.

    Args:
        x: [B, T · C, H, W] pictures, with the channels of each task adjacent, from `side_by_side`.
        weight: [T, D, C, 3, 3] filters of each task.

    Returns:
        [B, T · D, H, W] outputs, with the channels of each task adjacent.
    """
    return convolution(x, filters_side_by_side(weight), padding=(1, 1), groups=len(weight))


def filters_side_by_side(weight: Tensor) -> Tensor:
    """Filters [T, D, C, h, w] as [T · D, C, h, w], channels-last; a view if they have that layout already."""
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
    """`F.conv2d` with derivatives of any order that are as fast as the first.

    Args:
        x: [B, C, H, W] pictures.
        weight: [D, C / groups, h, w] filters.
        bias: [D] numbers that are added to the output of each filter, or None.
        stride: Distance between neighboring outputs, in rows and columns of the input.
        padding: Rows and columns of zeros that are added on every side.
        dilation: Distance between neighboring weights of a filter, in rows and columns of the input.
        groups: Number of groups of channels that are convolved separately.

    Returns:
        [B, D, H', W'] outputs; in lower precision inside autocast, as with `F.conv2d`.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    y: Any = _Conv.apply(x, weight, bias, (stride, padding, dilation, groups))
    return y


def per_task_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` for T tasks, each with its own weights.

    Args:
        x: [T, B, ..., C] inputs.
        weight: [T, D, C] weights of each task.
        bias: [T, D] biases of each task, or None.

    Returns:
        [T, B, ..., D] outputs; in lower precision inside autocast.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    rows, w = x.flatten(1, -2), weight.to(x.dtype).transpose(1, 2)
    y = torch.bmm(rows, w) if bias is None else torch.baddbmm(bias.to(x.dtype).unsqueeze(1), rows, w)
    return y if x.ndim == 3 else y.unflatten(1, x.shape[1:-1])


# Convolution is linear in the pictures and in the filters, and so are its gradients with respect to either.
# The derivatives of each of the three operations are therefore the other two. Torch's own second derivative
# loops over the groups, and convolves with filters as large as the pictures.
How = tuple[Pair, Pair, Pair, int]
"""Stride, padding, dilation and groups of a convolution."""


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
    """Gradient with respect to the pictures; only the shape of `x` is used."""

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
    """Gradient with respect to the filters; only the shape of `w` is used."""

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
